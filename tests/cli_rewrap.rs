//! `keyward keys rewrap`: records from one file to another, each under the newest key of its partition.

#![cfg(all(feature = "cli", feature = "sqlite"))]

mod cli_support;

use serde_json::Value;

use cli_support::{ALICE, BOB, TestResult, World, created};

const TO_FILE: [&str; 7] = ["keys", "rewrap", "--in", "old", "--out", "new", "--execute"];

#[test]
fn re_wrapped_records_decrypt_without_their_old_key_and_keep_their_payload() -> TestResult {
    let stage = Stage::new()?;
    let said = stage.world.says(&TO_FILE)?;
    assert_eq!(words(&said, ALICE)[0][2..], ["2", "2", "0", "0"], "{said}");
    assert_eq!(words(&said, ALICE)[1][2..], ["1", "0", "1", "0"], "{said}");
    assert_eq!(words(&said, BOB)[0][2..], ["2", "0", "2", "0"], "{said}");
    assert_eq!(words(&said, "total")[0][2..], ["5", "2", "3", "0"], "{said}");
    let (old, new) = (stage.lines("old")?, stage.lines("new")?);
    assert_eq!(new.len(), old.len());
    for (at, (old, new)) in old.iter().zip(&new).enumerate() {
        let [old_json, new_json] = [old, new].map(|line| serde_json::from_str::<Value>(line));
        let (old_json, new_json) = (old_json?, new_json?);
        assert_eq!(old_json["Data"], new_json["Data"], "line {at}");
        assert_eq!(old_json["Key"]["Created"], new_json["Key"]["Created"], "line {at}");
        assert_eq!(old == new, at > 1, "those under the newest key are copied: line {at}");
    }
    stage.delete_old_key()?;
    for (line, (partition, payload)) in new.iter().zip(RECORDS) {
        assert_eq!(stage.world.ok(&["decrypt", "--partition", partition], line.as_bytes())?, payload);
    }
    stage.world.refused(&["decrypt", "--partition", "alice"], old[0].as_bytes(), 65)?;
    Ok(())
}

#[test]
fn a_dry_run_counts_and_needs_no_master_key() -> TestResult {
    let stage = Stage::new()?;
    let world = &stage.world;
    let said = world.without_master_key(|| world.says(&["keys", "rewrap", "--in", "old", "--out", "new"]))?;
    assert_eq!(words(&said, ALICE)[0][2..6], ["2", "2", "0", "0"], "{said}");
    assert_eq!(words(&said, ALICE)[1][2..], ["1", "0", "1", "0", "this", "one"], "{said}");
    assert!(said.contains("WOULD BE RE-WRAPPED") && said.contains("--execute"), "{said}");
    assert!(!world.has("new"));
    Ok(())
}

#[test]
fn records_come_through_pipes_too() -> TestResult {
    let stage = Stage::new()?;
    stage.world.says(&TO_FILE)?;
    let output = stage.world.run(&["keys", "rewrap", "--execute"], &stage.world.read("old")?)?;
    let table = String::from_utf8(output.stderr)?;
    assert!(output.status.success() && table.contains("total"), "{table}");
    let data = |text: &[u8]| -> TestResult<Vec<Value>> {
        let text = str::from_utf8(text)?;
        text.lines().map(|line| Ok(serde_json::from_str::<Value>(line)?["Data"].clone())).collect()
    };
    assert_eq!(data(&output.stdout)?, data(&stage.world.read("new")?)?);
    for pipe in [["--in", "-", "--out", "new"], ["--in", "old", "--out", "-"]] {
        let resume = [&["keys", "rewrap", "--execute", "--resume"], &pipe[..]].concat();
        assert!(stage.world.refused(&resume, b"", 64)?.contains("a pipe cannot be resumed"));
    }
    Ok(())
}

#[test]
fn an_interrupted_run_goes_on_after_its_last_whole_line() -> TestResult {
    let stage = Stage::new()?;
    stage.world.says(&TO_FILE)?;
    let whole = stage.world.read("new")?;
    let resume = [&TO_FILE[..], &["--resume"]].concat();
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    for cut in [0, 7, ends[0] - 1, ends[0], ends[0] + 1, ends[3] + 30, whole.len() - 1, whole.len()] {
        stage.world.write("new", &whole[..cut])?;
        let said = stage.world.says(&resume)?;
        // A line that lacks nothing but its end is whole.
        let there = ends.iter().filter(|end| **end - 1 <= cut && cut > 0).count();
        assert_eq!(words(&said, "total")[0][2], (5 - there).to_string(), "{cut}: {said}");
        let lines = stage.lines("new")?;
        assert_eq!(lines.len(), 5, "{cut}");
        assert!(stage.world.read("new")?.starts_with(&whole[..ends[..there].last().copied().unwrap_or(0)]), "{cut}");
        for (line, (partition, payload)) in lines.iter().zip(RECORDS) {
            assert_eq!(stage.world.ok(&["decrypt", "--partition", partition], line.as_bytes())?, payload);
        }
    }
    Ok(())
}

#[test]
fn an_output_that_is_there_is_not_written_over() -> TestResult {
    let stage = Stage::new()?;
    stage.world.write("new", b"somebody's\n")?;
    let refusal = stage.world.refused(&TO_FILE, b"", 73)?;
    assert!(refusal.contains("new is there and not empty") && refusal.contains("hint: --resume"), "{refusal}");
    let resume = [&TO_FILE[..], &["--resume"]].concat();
    let refusal = stage.world.refused(&resume, b"", 65)?;
    assert!(refusal.contains("does not hold what an earlier run made"), "{refusal}");
    let more = [&stage.world.read("old")?[..], b"{}\n"].concat();
    stage.world.write("longer", &more)?;
    stage.world.refused(&["keys", "rewrap", "--in", "old", "--out", "longer", "--execute", "--resume"], b"", 65)?;
    let same = stage.world.refused(&["keys", "rewrap", "--in", "old", "--out", "./old", "--execute"], b"", 64)?;
    assert!(same.contains("are the same file"), "{same}");
    assert_eq!(stage.world.read("new")?, b"somebody's\n");
    assert_eq!(stage.world.read("longer")?, more);
    Ok(())
}

#[test]
fn a_bad_line_stops_the_run_which_can_be_resumed_when_it_is_mended() -> TestResult {
    let stage = Stage::new()?;
    let old = stage.lines("old")?;
    for bad in ["{", "", "null", &old[0][..old[0].len() - 9], &old[0].replace("Data", "Date")] {
        stage.world.write("old", format!("{}\n{bad}\n{}\n", old[0], old[2]).as_bytes())?;
        for execute in [false, true] {
            let rewrap = if execute { &TO_FILE[..] } else { &TO_FILE[..6] };
            let refusal = stage.world.refused(rewrap, b"", 65)?;
            assert!(refusal.contains("line 2 of old: "), "{bad}: {refusal}");
            assert!(refusal.contains("--resume") && refusal.contains("--keep-going"), "{refusal}");
        }
        assert_eq!(stage.lines("new")?.len(), 1, "what came before it is there");
        stage.world.write("old", format!("{}\n{}\n{}\n", old[0], old[1], old[2]).as_bytes())?;
        stage.world.says(&[&TO_FILE[..], &["--resume"]].concat())?;
        assert_eq!(stage.lines("new")?.len(), 3);
        stage.world.remove("new")?;
    }
    Ok(())
}

#[test]
fn who_keeps_going_has_bad_lines_copied_as_they_are() -> TestResult {
    let stage = Stage::new()?;
    let old = stage.lines("old")?;
    let foreign = old[0].replace(ALICE, "_IK_alice_other_default");
    let unknown = old[0].replace(&created(old[0].as_bytes())?, "1000");
    let huge = "x".repeat(70_000);
    let (first, last) = (&old[0], &old[3]);
    let lines = format!("{first}\n{{\n\n \n{foreign}\n{unknown}\n{huge}\n{last}\n\n\n");
    stage.world.write("old", lines.as_bytes())?;
    let output = stage.world.run(&[&TO_FILE[..], &["--keep-going", "--max-payload", "1K"]].concat(), b"")?;
    let (table, complaint) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert_eq!(output.status.code(), Some(65), "{complaint}");
    for line in [
        "line 2 of old: it is no record",
        "line 3 of old: it is blank",
        "line 5 of old: key _IK_alice_other_default",
        "line 6 of old",
        "line 7 of old: it has more than",
    ] {
        assert!(complaint.contains(line), "{line}: {complaint}");
    }
    assert!(complaint.contains("5 of the lines could not be re-wrapped"), "{complaint}");
    assert_eq!(words(&table, "total")[0][2..], ["7", "1", "1", "5"], "{table}");
    let new = String::from_utf8(stage.world.read("new")?)?;
    let copied = format!("\n{{\n\n \n{foreign}\n{unknown}\n{huge}\n{last}\n");
    assert!(new.ends_with(&copied), "{new:.900}");
    assert_eq!(
        stage.world.ok(&["decrypt", "--partition", "alice"], new.lines().next().ok_or("empty")?.as_bytes())?,
        b"tea"
    );
    Ok(())
}

#[test]
fn records_of_others_are_refused() -> TestResult {
    let stage = Stage::new()?;
    for (options, line) in [
        (&["--service", "other"][..], "line 1 of old: key _IK_alice_keyward_default is not that of"),
        (&["--product", "other"], "line 1 of old: key _IK_alice_keyward_default is not that of"),
        (&["--partition", "bob"], "line 1 of old: the record belongs to partition \"alice\""),
        (&["--partition", "alice"], "line 4 of old: the record belongs to partition \"bob\""),
    ] {
        for rewrap in [&TO_FILE[..], &TO_FILE[..6]] {
            let refusal = stage.world.refused(&[rewrap, options].concat(), b"", 65)?;
            assert!(refusal.contains(line), "{refusal}");
        }
        stage.world.remove("new")?;
    }
    Ok(())
}

#[test]
fn a_changed_record_or_one_whose_key_is_gone_is_a_bad_line() -> TestResult {
    let stage = Stage::new()?;
    let old = stage.lines("old")?;
    let key: Value = serde_json::from_str(&old[0])?;
    let key = key["Key"]["Key"].as_str().ok_or("no key")?;
    let flipped = if key.starts_with('A') { key.replacen('A', "B", 1) } else { format!("A{}", &key[1..]) };
    stage.world.write("old", format!("{}\n", old[0].replace(key, &flipped)).as_bytes())?;
    let refusal = stage.world.refused(&TO_FILE, b"", 65)?;
    assert!(refusal.contains("line 1 of old: the record could not be decrypted"), "{refusal}");
    stage.world.remove("new")?;

    stage.world.write("old", format!("{}\n", old[0]).as_bytes())?;
    stage.delete_old_key()?;
    let refusal = stage.world.refused(&TO_FILE[..6], b"", 65)?;
    assert!(refusal.contains("line 1 of old: there is no key _IK_alice"), "{refusal}");
    let refusal = stage.world.refused(&TO_FILE, b"", 65)?;
    assert!(refusal.contains("line 1 of old: the metastore has no key _IK_alice"), "{refusal}");
    Ok(())
}

#[test]
fn records_of_a_shredded_partition_are_told_and_copied() -> TestResult {
    let stage = Stage::new()?;
    let shred = ["keys", "shred", "--partition", "alice", "--execute", "--confirm", "alice", "--receipt", "receipt"];
    stage.world.says(&shred)?;
    for rewrap in [&TO_FILE[..6], &TO_FILE] {
        let output = stage.world.run(&[rewrap, &["--keep-going"]].concat(), b"")?;
        let (table, complaint) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        assert_eq!(output.status.code(), Some(65), "{complaint}");
        assert!(complaint.contains("line 1 of old: ") && complaint.contains("3 of the lines"), "{complaint}");
        assert_eq!(words(&table, "total")[0][2..6], ["5", "0", "2", "3"], "{table}");
    }
    assert_eq!(stage.lines("new")?, stage.lines("old")?);
    Ok(())
}

#[test]
fn the_rate_holds_the_run_back() -> TestResult {
    let stage = Stage::new()?;
    let began = std::time::Instant::now();
    stage.world.says(&[&TO_FILE[..], &["--rate", "10"]].concat())?;
    assert!(began.elapsed().as_millis() >= 400, "five records at ten a second take {:?}", began.elapsed());
    Ok(())
}

#[test]
fn line_ends_are_kept_and_one_is_added_at_the_end() -> TestResult {
    let stage = Stage::new()?;
    let old = stage.lines("old")?;
    stage.world.write("old", format!("{}\r\n{}\r\n{}", old[0], old[3], old[4]).as_bytes())?;
    stage.world.says(&TO_FILE)?;
    let new = String::from_utf8(stage.world.read("new")?)?;
    let ends: Vec<&str> = new.split_inclusive('\n').map(|line| &line[line.len() - 2..]).collect();
    assert_eq!(ends, ["\r\n", "\r\n", "}\n"]);
    Ok(())
}

/// Whose payloads the records of the stage hold.
const RECORDS: [(&str, &[u8]); 5] =
    [("alice", b"tea"), ("alice", b"milk"), ("alice", b"sugar"), ("bob", b"ale"), ("bob", b"")];

/// A file `old` of records: two of alice's under a key that was rotated, one under the new one, two of bob's.
struct Stage {
    world: World,
    old_key: String,
}

impl Stage {
    fn new() -> TestResult<Self> {
        let world = World::new()?;
        let mut records = Vec::new();
        for (at, (partition, payload)) in RECORDS.into_iter().enumerate() {
            if at == 2 {
                world.says(&["keys", "rotate", "--partition", "alice", "--execute"])?;
            }
            records.push(world.encrypt(partition, payload)?);
        }
        world.write("old", &records.concat())?;
        let old_key = created(&records[0])?;
        Ok(Self { world, old_key })
    }

    fn lines(&self, name: &str) -> TestResult<Vec<String>> {
        Ok(String::from_utf8(self.world.read(name)?)?.lines().map(str::to_owned).collect())
    }

    fn delete_old_key(&self) -> TestResult {
        let delete = "DELETE FROM encryption_key WHERE id = ?1 AND created = datetime(?2, 'unixepoch')";
        assert_eq!(self.world.table()?.execute(delete, (ALICE, self.old_key.parse::<i64>()?))?, 1);
        Ok(())
    }
}

/// Returns the words of the lines that begin with one.
fn words<'a>(table: &'a str, first: &str) -> Vec<Vec<&'a str>> {
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|words| words.first() == Some(&first)).collect()
}

#[test]
fn a_file_that_is_no_earlier_output_is_left_as_it_is() -> TestResult {
    let world = World::new()?;
    let record = world.encrypt("alice", b"tea")?;
    world.write("in", &record)?;
    world.ok(&["keys", "rotate", "--partition", "alice", "--execute"], b"")?;
    let foreign: [&[u8]; 4] =
        [b"notes without an end of line", b"[1,2]", b"one\nhalf of two", &world.encrypt("bob", b"x")?];
    for text in foreign {
        let text = text.trim_ascii_end();
        world.write("out", text)?;
        world.refused(&["keys", "rewrap", "--in", "in", "--out", "out", "--execute", "--resume"], b"", 65)?;
        assert_eq!(world.read("out")?, text);
    }
    Ok(())
}

#[test]
fn what_else_a_line_holds_is_kept() -> TestResult {
    let world = World::new()?;
    let record = String::from_utf8(world.encrypt("alice", b"tea")?)?.replacen('{', r#"{"row":7,"#, 1);
    world.write("in", record.as_bytes())?;
    world.ok(&["keys", "rotate", "--partition", "alice", "--execute"], b"")?;
    world.ok(&["keys", "rewrap", "--in", "in", "--out", "out", "--execute"], b"")?;
    let out = world.read("out")?;
    assert!(out.starts_with(br#"{"row":7,"Key":"#) && out != record.as_bytes());
    assert_eq!(world.ok(&["decrypt", "--partition", "alice"], &out)?, b"tea");
    Ok(())
}

#[test]
fn keys_under_a_revoked_system_key_are_shown_and_re_wrapped_as_such() -> TestResult {
    let world = World::new()?;
    let record = world.encrypt("alice", b"tea")?;
    world.write("in", &record)?;
    world.ok(&["keys", "revoke", "--kind", "system", "--created-before", "9999-01-01", "--execute"], b"")?;
    let list = String::from_utf8(world.ok(&["keys", "list", "--kind", "intermediate"], b"")?)?;
    assert!(list.contains("parent-invalid"), "{list}");
    let dry = String::from_utf8(world.ok(&["keys", "rewrap", "--in", "in"], b"")?)?;
    assert!(dry.contains("parent-invalid; one would be made"), "{dry}");
    world.ok(&["keys", "rewrap", "--in", "in", "--out", "out", "--execute"], b"")?;
    assert_ne!(world.read("out")?, record);
    Ok(())
}

#[test]
fn another_master_key_is_told_as_such() -> TestResult {
    let world = World::new()?;
    world.write("in", &world.encrypt("alice", b"tea")?)?;
    world.ok(&["keys", "rotate", "--partition", "alice", "--execute"], b"")?;
    let other = format!("static:{}", "07".repeat(32));
    let arguments = ["keys", "rewrap", "--in", "in", "--out", "out", "--execute"];
    let refused = world.command(&arguments).env("KEYWARD_KMS", other).output()?;
    let complaint = String::from_utf8(refused.stderr)?;
    assert_eq!(refused.status.code(), Some(78), "{complaint}");
    assert!(complaint.contains("hint: give the --kms that the keys in the --store were made with"), "{complaint}");
    Ok(())
}
