//! `keyward migrate`: what it tells of a table, and what it changes.

#![cfg(all(feature = "cli", feature = "sqlite"))]

mod cli_support;

use rusqlite::Connection;
use serde_json::Value;

use cli_support::{TestResult, World};

const STORE: &str = "sqlite:keyward.db";

#[test]
fn a_store_that_is_not_there_is_told_of_and_made_only_when_asked_for() -> TestResult {
    let world = World::new()?;
    let said = world.says(&["migrate", "--store", STORE])?;
    for part in ["there is no file", "There is no table", "CREATE TABLE", "CREATE INDEX", "--apply makes the table"] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    assert!(world.files()?.is_empty(), "looking makes nothing");
    is_made_and_used(&world, STORE)
}

#[test]
fn a_file_without_the_table_stays_so_until_it_is_asked_for() -> TestResult {
    let world = World::new()?;
    world.table()?.execute_batch("CREATE TABLE other(x)")?;
    let before = world.read("keyward.db")?;
    assert!(world.says(&["migrate"])?.contains("There is no table"));
    assert_eq!(world.read("keyward.db")?, before);
    is_made_and_used(&world, STORE)
}

/// Makes the table of a store that has none, twice, and keeps keys in it.
fn is_made_and_used(world: &World, store: &str) -> TestResult {
    let apply = ["migrate", "--store", store, "--apply"];
    let said = world.says(&apply)?;
    assert!(said.contains("done: made the table encryption_key") && said.contains("as it should be"), "{said}");
    let again = world.says(&apply)?;
    assert!(!again.contains("done:") && again.contains("as it should be"), "{again}");
    let record = world.ok(&["encrypt", "--partition", "alice", "--store", store], b"tea")?;
    assert_eq!(world.ok(&["decrypt", "--partition", "alice", "--store", store], &record)?, b"tea");
    let after = world.says(&["migrate", "--store", store])?;
    assert!(after.contains("There is a table") && after.contains("nothing to do"), "{after}");
    Ok(())
}

#[test]
fn a_store_that_encrypting_made_is_as_it_should_be() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    world.without_master_key(|| {
        let said = world.says(&["migrate"])?;
        assert!(said.contains("there is nothing to do") && !said.contains("How it differs"), "{said}");
        Ok(())
    })
}

#[test]
fn every_difference_is_told_with_how_much_it_matters() -> TestResult {
    const KEY: &str = "PRIMARY KEY(id, created)";
    const INDEX: &str = "CREATE INDEX i ON encryption_key(created)";
    let table = |columns: &str| format!("CREATE TABLE encryption_key({columns}); {INDEX}");
    let cases = [
        (
            format!(
                "CREATE TABLE encryption_key(id TEXT NOT NULL, created TIMESTAMP NOT NULL, key_record TEXT NOT NULL, {KEY})"
            ),
            vec![("harmless", "no index on created", true)],
        ),
        (table(&format!("ID text NOT NULL, Created NOT NULL, KEY_RECORD BLOB NOT NULL, {KEY}")), vec![]),
        (
            table(&format!("id TEXT NOT NULL, created TIMESTAMP NOT NULL, key_record TEXT, {KEY}")),
            vec![("harmless", "key_record may be NULL", false)],
        ),
        (
            table(&format!("id TEXT NOT NULL COLLATE NOCASE, created NOT NULL, key_record TEXT NOT NULL, {KEY}")),
            vec![("risky", "alice and Alice", false)],
        ),
        (
            table("id TEXT NOT NULL, created NOT NULL, key_record TEXT NOT NULL, PRIMARY KEY(created, id)"),
            vec![("harmless", "no index begins with id", false)],
        ),
        (
            table("id TEXT PRIMARY KEY NOT NULL, created NOT NULL, key_record TEXT NOT NULL"),
            vec![("broken", "no primary key or unique index is over (id, created)", false)],
        ),
        (
            table(&format!("id TEXT NOT NULL, created NOT NULL, {KEY}")),
            vec![("broken", "there is no column key_record", false)],
        ),
        (
            table(&format!("id TEXT NOT NULL, created NOT NULL, key_record TEXT NOT NULL, owner TEXT NOT NULL, {KEY}")),
            vec![("broken", "the column owner must be given", false)],
        ),
        (
            table(&format!(
                "id TEXT NOT NULL, created NOT NULL, key_record TEXT NOT NULL, owner TEXT NOT NULL DEFAULT '', {KEY}"
            )),
            vec![],
        ),
        (
            format!(
                "CREATE TABLE encryption_key(id TEXT NOT NULL, created INTEGER NOT NULL, key_record TEXT NOT NULL, {KEY}) \
            STRICT; {INDEX}"
            ),
            vec![("broken", "STRICT and its column created is INTEGER", false)],
        ),
        (
            format!(
                "{}; INSERT INTO encryption_key VALUES ('_SK_s_p', '2026-01-31T12:00:00Z', 'x')",
                table(&format!("id TEXT NOT NULL, created NOT NULL, key_record TEXT NOT NULL, {KEY}"))
            ),
            vec![("risky", "in 1 of the rows", false)],
        ),
    ];
    for (setup, expected) in cases {
        let world = World::new()?;
        world.table()?.execute_batch(&setup)?;
        let before = shape(&world.table()?)?;
        let output = world.run(&["migrate", "--json"], b"")?;
        let is_broken = expected.iter().any(|(severity, _, _)| *severity == "broken");
        assert_eq!(output.status.code(), Some(if is_broken { 69 } else { 0 }), "{setup}: {output:?}");
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let differences = report["differences"].as_array().ok_or("no list")?;
        assert_eq!(differences.len(), expected.len(), "{setup}: {report:#}");
        for (found, (severity, part, applies)) in differences.iter().zip(&expected) {
            assert_eq!((&found["severity"], &found["applies"]), (&(*severity).into(), &(*applies).into()), "{setup}");
            assert!(found["about"].as_str().is_some_and(|about| about.contains(part)), "{setup}: {found}");
        }
        assert_eq!((&report["exists"], &report["usable"]), (&true.into(), &(!is_broken).into()), "{setup}");
        assert_eq!(shape(&world.table()?)?, before, "looking changes nothing");

        let text = world.run(&["migrate"], b"")?;
        let (text, complaint) = (String::from_utf8(text.stdout)?, String::from_utf8(text.stderr)?);
        for (severity, part, _) in &expected {
            assert!(text.contains(part) && text.contains(&format!("  {severity}: ")), "{text}");
        }
        assert_eq!(complaint.contains("keys cannot be kept in this table"), is_broken, "{complaint}");
    }
    Ok(())
}

#[test]
fn what_is_safe_is_applied_and_the_rest_is_left() -> TestResult {
    let world = World::new()?;
    world.table()?.execute_batch(
        "CREATE TABLE encryption_key(id TEXT COLLATE NOCASE NOT NULL, created NOT NULL, key_record TEXT, \
            PRIMARY KEY(id, created)); INSERT INTO encryption_key VALUES ('_SK_s_p', '2026-01-31 12:00:00', 'x')",
    )?;
    let before = world.says(&["migrate"])?;
    assert!(before.contains("--apply does: CREATE INDEX") && before.contains("by hand: "), "{before}");
    assert!(before.contains("Nothing was changed"), "{before}");
    let after: Value = serde_json::from_slice(&world.ok(&["migrate", "--apply", "--json"], b"")?)?;
    assert_eq!(after["applied"], serde_json::json!(["made the index encryption_key_created"]));
    let left: Vec<&Value> = after["differences"].as_array().into_iter().flatten().map(|it| &it["severity"]).collect();
    assert_eq!(left, ["risky", "harmless"], "{after:#}");
    assert_eq!(world.table()?.query_row("SELECT count(*) FROM encryption_key", [], |row| row.get::<_, i64>(0))?, 1);
    Ok(())
}

#[test]
fn a_broken_table_is_still_broken_after_what_is_safe_was_applied() -> TestResult {
    let world = World::new()?;
    world.table()?.execute_batch("CREATE TABLE encryption_key(id TEXT, created TIMESTAMP, key_record TEXT)")?;
    let output = world.run(&["migrate", "--apply"], b"")?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(text.contains("done: made the index") && text.contains("changed by hand"), "{text}");
    // What it says helps.
    world.table()?.execute_batch("CREATE UNIQUE INDEX encryption_key_id_created ON encryption_key(id, created)")?;
    assert!(world.says(&["migrate"])?.contains("can be used as it is"));
    world.encrypt("alice", b"tea")?;
    Ok(())
}

#[test]
fn what_is_no_store_on_disk_is_told_as_such() -> TestResult {
    let world = World::new()?;
    let memory = world.refused(&["migrate", "--store", "memory"], b"", 64)?;
    assert!(memory.contains("no schema") && memory.contains("hint: name another with --store"), "{memory}");
    world.write("keyward.db", &b"no database ".repeat(100))?;
    assert!(world.refused(&["migrate"], b"", 69)?.contains("no SQLite database"));
    world.refused(&["migrate", "--apply"], b"", 69)?;
    assert_eq!(world.read("keyward.db")?, b"no database ".repeat(100));
    let folder = world.refused(&["migrate", "--store", "sqlite:absent/keys.db", "--apply"], b"", 69)?;
    assert!(folder.contains("create its folder first"), "{folder}");
    Ok(())
}

#[test]
fn whether_it_changes_anything_is_said_on_the_command_line_alone() -> TestResult {
    let world = World::new()?;
    let output = world.command(&["migrate"]).env("KEYWARD_APPLY", "1").output()?;
    assert!(output.status.success() && world.files()?.is_empty(), "{output:?}");
    let help = world.says(&["migrate", "--help"])?;
    assert!(help.contains("Examples:") && help.contains("--apply"), "{help}");
    Ok(())
}

/// The definitions of a file, and its number of rows.
fn shape(table: &Connection) -> rusqlite::Result<Vec<String>> {
    table
        .prepare("SELECT coalesce(sql, name) FROM sqlite_schema UNION ALL SELECT count(*) FROM encryption_key")?
        .query_map([], |row| Ok(format!("{:?}", row.get::<_, rusqlite::types::Value>(0)?)))?
        .collect()
}
