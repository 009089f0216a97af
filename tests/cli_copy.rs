//! `keyward keys copy`: what is in the second store afterwards, and what is told of it.

#![cfg(all(feature = "cli", feature = "sqlite"))]

mod cli_support;

use rusqlite::Connection;
use serde_json::Value;

use cli_support::{ALICE, BOB, SYSTEM, TestResult, World, created};

const FROM: &str = "sqlite:keyward.db";
const TO: &str = "sqlite:to.db";

/// `keyward keys copy` with more options.
fn copy<'a>(from: &'a str, to: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    [&["keys", "copy", "--from", from, "--to", to], options].concat()
}

/// Copies, or says what would happen, and returns what `--json` prints.
fn report(world: &World, from: &str, to: &str, options: &[&str], code: i32) -> TestResult<Value> {
    let output = world.run(&copy(from, to, &[options, &["--json"]].concat()), b"")?;
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Returns what is said of single rows, by id.
fn notes(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    report["notes"].as_array().into_iter().flatten().map(|it| (text(&it["id"]), text(&it["outcome"]))).collect()
}

fn has_note(report: &Value, id: &str, part: &str) {
    assert!(notes(report).iter().any(|(of, outcome)| of == id && outcome.contains(part)), "{id} {part}: {report:#}");
}

/// Sums up one count over all kinds.
fn count(report: &Value, what: &str) -> i64 {
    report["kinds"].as_object().into_iter().flatten().filter_map(|(_, counts)| counts[what].as_i64()).sum()
}

/// Opens the table that is copied to, behind the command's back.
fn to(world: &World) -> rusqlite::Result<Connection> {
    Connection::open(world.path("to.db"))
}

/// Returns all rows of a table, in the order in which they came.
fn rows(table: &Connection) -> rusqlite::Result<Vec<(String, String, String)>> {
    let select = "SELECT id, created, key_record FROM encryption_key ORDER BY rowid";
    table.prepare(select)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}

fn sorted<T: Ord>(mut rows: Vec<T>) -> Vec<T> {
    rows.sort();
    rows
}

#[test]
fn what_was_encrypted_on_the_one_store_is_decrypted_on_the_other() -> TestResult {
    let world = World::new()?;
    moves(&world, FROM, TO, "carol")?;
    assert_eq!(sorted(rows(&world.table()?)?), sorted(rows(&to(&world)?)?));
    // And back again, into a store that is not there.
    moves(&world, TO, "sqlite:back.db", "dora")
}

/// Encrypts on `from`, copies to `to`, which has no keys, and decrypts there; tenant `late` comes later.
fn moves(world: &World, from: &str, to: &str, late: &str) -> TestResult {
    let encrypt = |partition, store| world.ok(&["encrypt", "--partition", partition, "--store", store], b"tea");
    let decrypt =
        |partition, store, record: &[u8]| world.ok(&["decrypt", "--partition", partition, "--store", store], record);
    let records = [("alice", encrypt("alice", from)?), ("bob", encrypt("bob", from)?)];
    world.without_master_key(|| {
        let keys = count(&report(world, from, to, &[], 0)?, "copied");
        let before = world.says(&copy(from, to, &[]))?;
        assert!(before.contains("TO COPY") && before.contains("Nothing was changed; --execute"), "{before}");
        assert!(before.contains(&format!("{keys} keys in ")) && before.contains(", 0 of them in "), "{before}");
        let said = world.says(&copy(from, to, &["--execute"]))?;
        assert!(said.contains(&format!(", {keys} of them in ")) && said.contains("byte for byte"), "{said}");
        let again = report(world, from, to, &["--execute"], 0)?;
        assert_eq!((count(&again, "there"), count(&again, "copied"), &again["in_both"]), (keys, 0, &keys.into()));
        Ok(())
    })?;
    for (partition, record) in &records {
        assert_eq!(decrypt(partition, to, record)?, b"tea");
    }
    // No new key is made there, and one that is made where applications still use the first store is copied later.
    assert_eq!(created(&encrypt("alice", to)?)?, created(&records[0].1)?);
    let record = encrypt(late, from)?;
    assert_eq!(count(&report(world, from, to, &["--execute"], 0)?, "copied"), 1);
    assert_eq!(decrypt(late, to, &record)?, b"tea");
    Ok(())
}

#[test]
fn a_dry_run_changes_nothing() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    world.says(&copy(FROM, TO, &[]))?;
    assert_eq!(world.files()?, ["keyward.db", "keyward.key"], "nor makes a store");
    to(&world)?.execute_batch("CREATE TABLE other(x)")?;
    let before = world.read("to.db")?;
    let said = world.says(&copy(FROM, TO, &[]))?;
    assert!(said.contains("There is no table in the second yet"), "{said}");
    assert_eq!(world.read("to.db")?, before, "nor a table");

    world.says(&copy(FROM, TO, &["--execute"]))?;
    world.ok(&["keys", "revoke", "--kind", "intermediate", "--created-before", "2100-01-01", "--execute"], b"")?;
    world.encrypt("bob", b"tea")?;
    world.ok(&["keys", "shred", "--partition", "bob", "--execute", "--confirm", "bob"], b"")?;
    let before = rows(&to(&world)?)?;
    let would = report(&world, FROM, TO, &[], 0)?;
    assert_eq!((count(&would, "revoked"), &would["executed"]), (1, &false.into()));
    has_note(&would, ALICE, "would be revoked");
    has_note(&would, BOB, "would be shredded");
    assert_eq!(rows(&to(&world)?)?, before);
    Ok(())
}

#[test]
fn that_a_key_is_revoked_is_carried_over_and_not_taken_back() -> TestResult {
    let world = World::new()?;
    let record = world.encrypt("alice", b"tea")?;
    world.encrypt("bob", b"tea")?;
    world.says(&copy(FROM, TO, &["--execute"]))?;
    let time = created(&record)?;
    world.ok(&["keys", "revoke", "--id", ALICE, "--created", &time, "--execute"], b"")?;
    world.ok(&["keys", "revoke", "--store", TO, "--id", BOB, "--created", &time, "--execute"], b"")?;
    let done = report(&world, FROM, TO, &["--execute"], 0)?;
    has_note(&done, ALICE, "revoked now");
    has_note(&done, BOB, "revoked there alone");
    assert_eq!((count(&done, "revoked"), count(&done, "there"), &done["in_both"]), (1, 3, &3.into()));
    let states: Vec<bool> = sorted(rows(&to(&world)?)?).iter().map(|(_, _, text)| text.contains("Revoked")).collect();
    assert_eq!(states, [true, true, false]);
    world.has_keys(&[(ALICE, "revoked"), (BOB, "valid"), (SYSTEM, "valid")])?;
    assert_eq!(notes(&report(&world, FROM, TO, &["--execute"], 0)?).len(), 1, "bob's alone, again");
    // One that is revoked from the start comes so.
    world.says(&copy(FROM, "sqlite:third.db", &["--execute"]))?;
    let third = Connection::open(world.path("third.db"))?;
    assert!(sorted(rows(&third)?)[0].2.contains("Revoked"));
    Ok(())
}

#[test]
fn a_shredded_key_is_shredded_everywhere_and_copied_nowhere() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    let record = world.encrypt("bob", b"tea")?;
    world.says(&copy(FROM, TO, &["--execute"]))?;
    let shred = |partition, store| {
        let receipt = format!("{partition}.json");
        let options = ["--execute", "--confirm", partition, "--receipt", &receipt, "--store", store];
        world.ok(&[&["keys", "shred", "--partition", partition], &options[..]].concat(), b"").map(drop)
    };
    shred("alice", FROM)?;
    shred("bob", TO)?;
    // A program that knows no tombstones has made a key since.
    world.row(ALICE, 1000, r#"{"Created":1000,"Key":"AAAA"}"#)?;
    let done = report(&world, FROM, TO, &["--execute"], 0)?;
    has_note(&done, ALICE, "shredded there, destroyed: 1 keys");
    has_note(&done, ALICE, "its id is shredded, not copied");
    has_note(&done, BOB, "its id is shredded there, not copied");
    assert_eq!((count(&done, "left_out"), &done["in_both"], &done["tombstones"]), (2, &1.into(), &1.into()));
    let ids: Vec<_> = sorted(rows(&to(&world)?)?).into_iter().map(|(id, created, _)| (id, created)).collect();
    let buried = "2038-01-18 00:00:00".to_owned();
    assert_eq!(ids[..2], [(ALICE.to_owned(), buried.clone()), (BOB.to_owned(), buried)]);
    assert_eq!(ids.len(), 3);
    // It is as it was in the store that was copied from.
    assert_eq!(world.ok(&["decrypt", "--partition", "bob"], &record)?, b"tea");
    // A store that has never had it gets the tombstone alone.
    let third = report(&world, FROM, "sqlite:third.db", &["--execute"], 0)?;
    has_note(&third, ALICE, "shredded");
    let third = rows(&Connection::open(world.path("third.db"))?)?;
    assert_eq!(third.iter().filter(|(id, _, _)| id == ALICE).count(), 1);
    assert_eq!(notes(&report(&world, FROM, "sqlite:third.db", &["--execute"], 0)?).len(), 1, "the stray row's alone");
    Ok(())
}

#[test]
fn another_key_in_its_place_is_told_and_left() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    world.says(&copy(FROM, TO, &["--execute"]))?;
    world.row("_SK_s_p", 1000, r#"{"Created":1000,"Key":"AAAA"}"#)?;
    world.row(
        "_IK_a_s_p",
        1000,
        r#"{"Created":1000,"Key":"AAAA","ParentKeyMeta":{"KeyId":"_SK_s_p","Created":1000}}"#,
    )?;
    world.row("_IK_b_s_p", 1000, r#"{"Created":1000,"Key":"AAAA"}"#)?;
    world.row("_IK_c_s_p", 1000, r#"{"Created":1000,"Key":"AAAA"}"#)?;
    for (id, text) in [
        ("_SK_s_p", r#"{"Created":1000,"Key":"BBBB"}"#),
        ("_IK_b_s_p", r#"{"Created":1000,"Key":"BBBB"}"#),
        ("_IK_c_s_p", "{"),
    ] {
        let insert = "INSERT INTO encryption_key VALUES (?1, datetime(1000, 'unixepoch'), ?2)";
        to(&world)?.execute(insert, (id, text))?;
    }
    let before = rows(&to(&world)?)?;
    for options in [&[][..], &["--execute"]] {
        let told = report(&world, FROM, TO, options, 65)?;
        has_note(&told, "_SK_s_p", "different: another key is there");
        has_note(&told, "_IK_a_s_p", "its system key is another there");
        has_note(&told, "_IK_b_s_p", "different: another key is there");
        has_note(&told, "_IK_c_s_p", "different: what is there is corrupt");
        assert_eq!((count(&told, "different"), count(&told, "left_out"), count(&told, "there")), (3, 1, 2));
        assert_eq!(rows(&to(&world)?)?, before, "{options:?}");
    }
    let output = world.run(&copy(FROM, TO, &["--execute"]), b"")?;
    let (text, complaint) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert!(text.contains("6 keys in ") && text.contains(", 2 of them in "), "{text}");
    assert!(complaint.contains("3 of the keys are others") && complaint.contains("hint: "), "{complaint}");
    Ok(())
}

#[test]
fn rows_that_cannot_be_copied_are_told_and_do_not_keep_others_from_it() -> TestResult {
    let world = World::new()?;
    let record = world.encrypt("alice", b"tea")?;
    world.row("_IK_a_s_p", 1000, "{")?;
    world.row("somebody's note", 1000, "{}")?;
    world.row("$keyward", 1000, r#"{"Created":1000,"Key":"AAAA"}"#)?;
    let done = report(&world, FROM, TO, &["--execute"], 69)?;
    has_note(&done, "_IK_a_s_p", "corrupt, not copied");
    assert_eq!(done["rows_that_are_no_keys"], 2);
    assert_eq!((count(&done, "copied"), count(&done, "left_out"), &done["in_both"]), (2, 1, &2.into()));
    assert_eq!(rows(&to(&world)?)?.len(), 2);
    assert_eq!(world.ok(&["decrypt", "--partition", "alice", "--store", TO], &record)?, b"tea");
    Ok(())
}

#[test]
fn system_keys_come_first_and_a_store_that_fails_is_told_with_the_row() -> TestResult {
    let world = World::new()?;
    let record = world.encrypt("alice", b"tea")?;
    world.encrypt("bob", b"tea")?;
    world.ok(&["migrate", "--store", TO, "--apply"], b"")?;
    to(&world)?.execute_batch(
        "CREATE TRIGGER t BEFORE INSERT ON encryption_key WHEN NEW.id LIKE '_IK_bob%' \
            BEGIN SELECT RAISE(FAIL, 'no bobs'); END",
    )?;
    let output = world.run(&copy(FROM, TO, &["--execute"]), b"")?;
    let (text, complaint) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert_eq!(output.status.code(), Some(69), "{complaint}");
    for part in [BOB, "no bobs", "to.db", "hint: run it again"] {
        assert!(complaint.contains(part), "{part} is not in {complaint}");
    }
    assert!(text.contains("stopped before the end"), "{text}");
    let ids: Vec<String> = rows(&to(&world)?)?.into_iter().map(|(id, _, _)| id).collect();
    assert_eq!(ids, [SYSTEM, ALICE], "the system key before those that it wraps");
    assert_eq!(world.ok(&["decrypt", "--partition", "alice", "--store", TO], &record)?, b"tea");
    to(&world)?.execute_batch("DROP TRIGGER t")?;
    let rest = report(&world, FROM, TO, &["--execute"], 0)?;
    assert_eq!((count(&rest, "there"), count(&rest, "copied")), (2, 1));
    Ok(())
}

#[test]
fn a_row_that_was_stored_and_is_not_there_is_told() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    world.ok(&["migrate", "--store", TO, "--apply"], b"")?;
    to(&world)?.execute_batch(
        "CREATE TRIGGER t AFTER INSERT ON encryption_key WHEN NEW.id LIKE '_IK_%' \
            BEGIN DELETE FROM encryption_key WHERE id = NEW.id; END",
    )?;
    let told = report(&world, FROM, TO, &["--execute"], 65)?;
    has_note(&told, ALICE, "is not as it was made");
    assert_eq!((&told["in_both"], count(&told, "different")), (&1.into(), 1));
    Ok(())
}

#[test]
fn many_keys_are_copied_page_by_page() -> TestResult {
    let world = World::new()?;
    fill(&world, 1100)?;
    to(&world)?;
    let done = report(&world, FROM, TO, &[], 0)?;
    assert_eq!((count(&done, "keys"), count(&done, "copied")), (1102, 1102));
    Ok(())
}

/// Puts so many keys, that wrap nothing, under two system keys.
fn fill(world: &World, keys: i64) -> TestResult {
    world.ok(&["migrate", "--apply"], b"")?;
    let mut table = world.table()?;
    let change = table.transaction()?;
    let insert = "INSERT INTO encryption_key VALUES (?1, datetime(?2, 'unixepoch'), ?3)";
    for created in [1000, 2000] {
        change.execute(insert, ("_SK_s_p", created, format!(r#"{{"Created":{created},"Key":"AAAA"}}"#)))?;
    }
    for number in 0..keys {
        let parent = format!(r#"{{"KeyId":"_SK_s_p","Created":{}}}"#, 1000 + number % 2 * 1000);
        let text = format!(r#"{{"Created":3000,"Key":"AAAA","ParentKeyMeta":{parent}}}"#);
        change.execute(insert, (format!("_IK_{number}_s_p"), 3000, text))?;
    }
    change.commit()?;
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_copy_that_was_cut_off_can_be_used_and_goes_on_where_it_ended() -> TestResult {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(60);
    for signal in ["INT", "KILL"] {
        let world = World::new()?;
        fill(&world, 600)?;
        world.ok(&["migrate", "--store", TO, "--apply"], b"")?;
        let table = to(&world)?;
        let there = || table.query_row("SELECT count(*) FROM encryption_key", [], |row| row.get::<_, i64>(0));
        let mut command = world.command(&copy(FROM, TO, &["--execute"]));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let began = Instant::now();
        while there()? < 5 {
            assert!(began.elapsed() < PATIENCE, "nothing was copied");
            std::thread::yield_now();
        }
        assert!(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status()?.success());
        let output = child.wait_with_output()?;
        let complaint = String::from_utf8(output.stderr)?;
        let half = there()?;
        assert!((5..602).contains(&half), "{half} rows are there: {complaint}");
        if signal == "INT" {
            assert_eq!((output.status.code(), output.stdout.len()), (Some(130), 0), "{complaint}");
            assert_eq!(complaint, format!("keyward: ended after {half} of 602 keys; copying again goes on there\n"));
        }
        let first: Vec<String> = rows(&table)?.into_iter().map(|(id, _, _)| id).take(2).collect();
        assert_eq!(first, ["_SK_s_p", "_SK_s_p"]);
        let rest = report(&world, FROM, TO, &["--execute"], 0)?;
        assert_eq!((count(&rest, "there"), count(&rest, "copied"), there()?), (half, 602 - half, 602));
        assert_eq!(sorted(rows(&world.table()?)?), sorted(rows(&table)?));
    }
    Ok(())
}

#[test]
fn stores_between_which_nothing_can_be_copied_are_refused() -> TestResult {
    let world = World::new()?;
    let absent = world.refused(&copy(FROM, TO, &["--execute"]), b"", 66)?;
    assert!(absent.contains("there is no store keyward.db"), "{absent}");
    assert!(world.files()?.is_empty());
    world.table()?.execute_batch("CREATE TABLE other(x)")?;
    let before = world.read("keyward.db")?;
    let empty = world.refused(&copy(FROM, TO, &["--execute"]), b"", 66)?;
    assert!(empty.contains("there is no table in sqlite:"), "{empty}");
    assert_eq!((world.read("keyward.db")?, world.has("to.db")), (before, false));
    world.remove("keyward.db")?;

    world.encrypt("alice", b"tea")?;
    let dotted = world.path("../keyward.db").to_string_lossy().replace("../", "./");
    for same in [FROM, &format!("sqlite:{dotted}")] {
        let same = world.refused(&copy(FROM, same, &["--execute"]), b"", 64)?;
        assert!(same.contains("are the same store"), "{same}");
    }
    world.write("password", b"hunter2")?;
    for wrong in [
        &["keys", "copy"][..],
        &["keys", "copy", "--from", FROM],
        &["keys", "copy", "--to", TO],
        &copy(FROM, "memory", &[]),
        &copy("memory", TO, &[]),
        &copy(FROM, TO, &["--to-password-file", "password"]),
        &copy(FROM, "surprise:hunter2", &[]),
    ] {
        let refusal = world.refused(wrong, b"", 64)?;
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }
    assert_eq!(world.files()?, ["keyward.db", "keyward.key", "password"]);
    Ok(())
}

#[test]
fn addresses_may_come_from_the_environment_and_nothing_else_may() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    let output = world
        .command(&["keys", "copy"])
        .envs([("KEYWARD_FROM", FROM), ("KEYWARD_TO", TO), ("KEYWARD_EXECUTE", "1")])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    assert!(output.status.success() && text.contains("Nothing was changed"), "{text}");
    assert!(!world.has("to.db"));
    let help = world.command(&["keys", "copy", "--help"]).env("KEYWARD_TO", "sqlite:hunter2").output()?;
    let help = String::from_utf8(help.stdout)?;
    assert!(help.contains("Examples:") && help.contains("copy\nagain") && !help.contains("hunter2"), "{help}");
    Ok(())
}

#[cfg(feature = "postgres")]
#[test]
fn a_password_is_warned_about_where_others_see_it_and_shown_nowhere() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    let seen = "postgres://keyward:hunter2@127.0.0.1:1/keys?connect_timeout=5";
    let bare = "postgres://keyward@127.0.0.1:1/keys?connect_timeout=5";
    world.write("password", b"hunter2\n")?;
    let complaint = world.refused(&copy(FROM, seen, &[]), b"", 75)?;
    assert!(complaint.contains("see a password on the command line; KEYWARD_FROM"), "{complaint}");
    assert!(complaint.contains("127.0.0.1:1") && !complaint.contains("hunter2"), "{complaint}");
    let complaint = world.refused(&copy(FROM, bare, &["--to-password-file", "password"]), b"", 75)?;
    assert!(!complaint.contains("command line") && !complaint.contains("hunter2"), "{complaint}");
    let hidden = world.command(&["keys", "copy", "--from", FROM]).env("KEYWARD_TO", seen).output()?;
    let complaint = String::from_utf8(hidden.stderr)?;
    assert_eq!(hidden.status.code(), Some(75), "{complaint}");
    assert!(!complaint.contains("command line") && !complaint.contains("hunter2"), "{complaint}");
    Ok(())
}
