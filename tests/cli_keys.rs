//! `keyward keys revoke` and `rotate`: what operators see, and what becomes of keys.

#![cfg(all(feature = "cli", feature = "sqlite"))]

mod cli_support;

use serde_json::Value;

use cli_support::{ALICE, BOB, SYSTEM, TestResult, World, created};

#[test]
fn a_revoked_key_encrypts_no_more_and_still_decrypts() -> TestResult {
    let world = World::new()?;
    let old = world.encrypt("alice", b"tea")?;
    let time = created(&old)?;
    let revoke = ["keys", "revoke", "--id", ALICE, "--created", &time];
    world.without_master_key(|| {
        let said = world.says(&revoke)?;
        assert!(said.contains("would be revoked") && said.contains("--execute"), "{said}");
        world.has_keys(&[(ALICE, "valid"), (SYSTEM, "valid")])?;
        let said = world.says(&[&revoke[..], &["--execute", "--revoke-check", "5m"]].concat())?;
        assert!(said.contains("revoked") && said.contains("5m"), "{said}");
        world.has_keys(&[(ALICE, "revoked"), (SYSTEM, "valid")])?;
        let again = world.says(&[&revoke[..], &["--execute"]].concat())?;
        assert!(again.contains("already revoked") && again.contains("Nothing was changed"), "{again}");
        Ok(())
    })?;
    assert_ne!(created(&world.encrypt("alice", b"tea")?)?, time);
    assert_eq!(world.ok(&["decrypt", "--partition", "alice"], &old)?, b"tea");
    Ok(())
}

#[test]
fn a_key_is_named_by_its_id_and_any_form_of_its_time() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    let listed: Vec<Value> = serde_json::from_slice(&world.ok(&["keys", "list", "--json"], b"")?)?;
    let at = listed[0]["created_at"].as_str().ok_or("no time")?;
    let offset = at.replace('Z', "+00:00");
    for time in [at, &offset] {
        assert!(world.says(&["keys", "revoke", "--id", ALICE, "--created", time])?.contains("would be revoked"));
    }
    for (id, time) in [(ALICE, "5"), (ALICE, "-5"), ("alice", at), (BOB, at), ("_IK_ALICE_keyward_default", at)] {
        let refusal = world.refused(&["keys", "revoke", "--id", id, "--created", time, "--execute"], b"", 65)?;
        assert!(refusal.contains(id) && refusal.contains("hint: `keyward keys list`"), "{refusal}");
    }
    Ok(())
}

#[test]
fn keys_of_a_kind_are_revoked_from_the_oldest_on_and_newer_ones_are_left() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    world.row("_IK_old_a_b", 2000, r#"{"Created":2000,"Key":"AAAA","New":1}"#)?;
    world.row("_IK_older_a_b", 1000, r#"{"Created":1000,"Key":"AAAA"}"#)?;
    world.row("_IK_revoked_a_b", 1500, r#"{"Revoked":true,"Created":1500,"Key":"AAAA"}"#)?;
    world.row("_SK_old_a_b", 1000, r#"{"Created":1000,"Key":"AAAA"}"#)?;
    let revoke = ["keys", "revoke", "--kind", "intermediate", "--created-before", "1970-01-02", "--json"];
    let outcomes = |report: &Value| -> Vec<String> {
        let keys = report["keys"].as_array().map_or(&[][..], Vec::as_slice);
        keys.iter().map(|key| format!("{} {}", key["id"], key["outcome"]).replace('"', "")).collect()
    };
    let before: Value = serde_json::from_slice(&world.ok(&revoke, b"")?)?;
    assert_eq!(before["executed"], false);
    let expected =
        ["_IK_older_a_b would be revoked", "_IK_revoked_a_b already revoked", "_IK_old_a_b would be revoked"];
    assert_eq!(outcomes(&before), expected);
    let after: Value = serde_json::from_slice(&world.ok(&[&revoke[..], &["--execute"]].concat(), b"")?)?;
    assert_eq!((&after["executed"], &after["in_use_for_seconds"]), (&Value::Bool(true), &Value::from(3600)));
    assert_eq!(outcomes(&after), ["_IK_older_a_b revoked", "_IK_revoked_a_b already revoked", "_IK_old_a_b revoked"]);
    let states = world.states()?;
    assert!(states.contains(&(ALICE.into(), "valid".into())), "{states:?}");
    assert!(states.contains(&("_SK_old_a_b".into(), "expired".into())), "{states:?}");
    assert_eq!(world.text("_IK_old_a_b", 2000)?, r#"{"Created":2000,"Key":"AAAA","New":1,"Revoked":true}"#);
    let none = world.says(&["keys", "revoke", "--kind", "system", "--created-before", "500"])?;
    assert_eq!(none, "no such keys\n");
    Ok(())
}

#[test]
fn a_corrupt_row_is_told_and_left_and_the_others_are_revoked() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    world.row("_IK_a_a_b", 1000, "{")?;
    world.row("_IK_b_a_b", 1000, r#"{"Created":1000,"Key":"AAAA"}"#)?;
    let revoke = ["keys", "revoke", "--kind", "intermediate", "--created-before", "1970-01-02", "--execute"];
    let output = world.run(&revoke, b"")?;
    let (table, complaint) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert_eq!(output.status.code(), Some(69), "{complaint}");
    assert!(table.contains("corrupt: ") && table.contains("revoked"), "{table}");
    assert_eq!(world.text("_IK_a_a_b", 1000)?, "{");
    assert!(world.states()?.contains(&("_IK_b_a_b".into(), "revoked".into())));
    Ok(())
}

#[test]
fn which_keys_are_changed_is_said_on_the_command_line_or_not_at_all() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    for wrong in [
        &["keys", "revoke"][..],
        &["keys", "revoke", "--id", ALICE],
        &["keys", "revoke", "--created", "5"],
        &["keys", "revoke", "--kind", "system"],
        &["keys", "revoke", "--created-before", "5"],
        &["keys", "revoke", "--id", ALICE, "--created", "5", "--kind", "system", "--created-before", "5"],
        &["keys", "revoke", "--kind", "system", "--created-before", "yesterday"],
        &["keys", "rotate"],
        &["keys", "rotate", "--kind", "intermediate"],
        &["keys", "rotate", "--partition", "alice", "--kind", "system"],
        &["keys", "rotate", "--partition", ""],
        &["keys", "shred"],
        &["keys", "shred", "--partition", ""],
        &["keys", "shred", "--partition", "alice", "--confirm", "alice"],
        &["keys", "rewrap", "--rate", "0"],
    ] {
        world.refused(wrong, b"", 64)?;
    }
    for command in ["rotate", "shred"] {
        let output = world.command(&["keys", command]).env("KEYWARD_PARTITION", "alice").output()?;
        assert_eq!(output.status.code(), Some(64), "{command}");
    }
    for command in ["revoke", "rotate", "rewrap", "shred"] {
        let output = world.command(&["keys", command, "--help"]).env("KEYWARD_EXECUTE", "1").output()?;
        let help = String::from_utf8(output.stdout)?;
        assert!(help.contains("Examples:") && help.contains("--execute"), "{help}");
    }
    world.has_keys(&[(ALICE, "valid"), (SYSTEM, "valid")])?;
    Ok(())
}

#[test]
fn nothing_is_looked_after_in_a_store_that_is_not_there() -> TestResult {
    let world = World::new()?;
    for command in [
        &["keys", "revoke", "--id", ALICE, "--created", "5", "--execute"][..],
        &["keys", "rotate", "--partition", "alice", "--execute"],
        &["keys", "shred", "--partition", "alice", "--execute", "--confirm", "alice"],
        &["keys", "rewrap", "--execute"],
    ] {
        assert!(world.refused(command, b"", 66)?.contains("there is no store keyward.db"), "{command:?}");
    }
    assert!(world.files()?.is_empty(), "{:?}", world.files()?);
    Ok(())
}

#[test]
fn a_partition_is_rotated_now_and_its_old_records_still_decrypt() -> TestResult {
    let world = World::new()?;
    let old = world.encrypt("alice", b"tea")?;
    let rotate = ["keys", "rotate", "--partition", "alice"];
    world.without_master_key(|| {
        let said = world.says(&rotate)?;
        assert!(said.contains(ALICE) && said.contains("valid") && said.contains("--execute makes it"), "{said}");
        assert!(world.says(&["keys", "rotate", "--partition", "bob"])?.contains("There is no key"), "nor for bob");
        Ok(())
    })?;
    world.has_keys(&[(ALICE, "valid"), (SYSTEM, "valid")])?;
    let said = world.says(&[&rotate[..], &["--execute"]].concat())?;
    assert!(said.contains("The new one is _IK_alice") && said.contains("within 1h"), "{said}");
    world.has_keys(&[(ALICE, "valid"), (ALICE, "valid"), (SYSTEM, "valid")])?;
    assert_ne!(created(&world.encrypt("alice", b"tea")?)?, created(&old)?);
    assert_eq!(world.ok(&["decrypt", "--partition", "alice"], &old)?, b"tea");
    Ok(())
}

#[test]
fn new_partitions_get_keys_under_a_rotated_system_key() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    let said = world.says(&["keys", "rotate", "--kind", "system", "--execute"])?;
    assert!(said.contains("The new one is _SK_keyward_default"), "{said}");
    world.encrypt("bob", b"tea")?;
    let keys: Vec<Value> = serde_json::from_slice(&world.ok(&["keys", "list", "--json"], b"")?)?;
    assert_eq!(keys.len(), 4);
    assert_eq!(keys[0]["parent"]["created"], keys[2]["created"]);
    assert_eq!(keys[1]["parent"]["created"], keys[3]["created"]);
    Ok(())
}
