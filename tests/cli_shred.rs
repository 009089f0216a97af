//! `keyward keys shred`: asked twice, done once, and for ever.

#![cfg(all(feature = "cli", feature = "sqlite"))]

mod cli_support;

use std::process::Stdio;

use serde_json::Value;

use cli_support::{ALICE, BOB, SYSTEM, TestResult, World, created};

const SHRED: [&str; 4] = ["keys", "shred", "--partition", "alice"];

#[test]
fn a_shredded_partition_neither_decrypts_nor_encrypts_any_more() -> TestResult {
    let world = World::new()?;
    let (tea, ale) = (world.encrypt("alice", b"tea")?, world.encrypt("bob", b"ale")?);
    let wrapped: Value = serde_json::from_str(&world.text(ALICE, created(&tea)?.parse()?)?)?;
    let wrapped = wrapped["Key"].as_str().ok_or("no key")?;
    assert!(world.holds(wrapped)?);
    let said = world.without_master_key(|| {
        world.says(&[&SHRED[..], &["--execute", "--confirm", "alice", "--receipt", "receipt.json"]].concat())
    })?;
    for part in [ALICE, "destroyed", "Copies of the store", "Shred again after a restore", "receipt.json"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!world.holds(wrapped)?, "the key left the file");
    world.has_keys(&[(ALICE, "shredded"), (BOB, "valid"), (SYSTEM, "valid")])?;
    world.refused(&["decrypt", "--partition", "alice"], &tea, 65)?;
    assert!(world.refused(&["encrypt", "--partition", "alice"], b"tea", 65)?.contains("destroyed"));
    assert_eq!(world.ok(&["decrypt", "--partition", "bob"], &ale)?, b"ale");
    let refusal = world.refused(&["keys", "rotate", "--partition", "alice", "--execute"], b"", 65)?;
    assert!(refusal.contains("was shredded"), "{refusal}");
    Ok(())
}

#[test]
fn the_receipt_says_what_was_destroyed_and_where() -> TestResult {
    let world = World::new()?;
    let time: i64 = created(&world.encrypt("alice", b"tea")?)?.parse()?;
    world.row(ALICE, 1000, r#"{"Created":1000,"Key":"AAAA","ParentKeyMeta":{"KeyId":"_SK_old","Created":60}}"#)?;
    world.says(&[&SHRED[..], &["--execute", "--confirm", "alice", "--receipt", "receipt.json"]].concat())?;
    let receipt: Value = serde_json::from_slice(&world.read("receipt.json")?)?;
    for (field, text) in [("partition", "alice"), ("key_id", ALICE), ("service", "keyward"), ("product", "default")] {
        assert_eq!(receipt[field], text);
    }
    let store = receipt["store"].as_str().ok_or("no store")?;
    assert!(store.starts_with("sqlite:/") && store.ends_with("keyward.db"), "{store}");
    let destroyed: Vec<i64> =
        receipt["destroyed"].as_array().ok_or("no list")?.iter().filter_map(|key| key["created"].as_i64()).collect();
    assert_eq!(destroyed, [1000, time]);
    assert_eq!(receipt["destroyed"][0]["created_at"], "1970-01-01T00:16:40Z");
    assert_eq!(receipt["tombstone"]["created_at"], "2038-01-18T00:00:00Z");
    assert_eq!(receipt["tombstone"]["parent"]["id"], SYSTEM, "that of the newest version");
    assert!(receipt["shredded_at"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert!(receipt["keyward"].as_str().is_some_and(|version| version.starts_with(env!("CARGO_PKG_VERSION"))));
    assert!(receipt["note"].as_str().is_some_and(|note| note.contains("Copies of the store")));
    #[cfg(unix)]
    assert_eq!(world.mode("receipt.json")?, 0o600);
    Ok(())
}

#[test]
fn a_dry_run_destroys_nothing() -> TestResult {
    let world = World::new()?;
    let tea = world.encrypt("alice", b"tea")?;
    let said = world.without_master_key(|| world.says(&SHRED))?;
    assert!(said.contains("would be destroyed") && said.contains("Copies") && said.contains("--execute"), "{said}");
    let said = world.says(&["keys", "shred", "--partition", "carol"])?;
    assert!(said.contains("There is no key _IK_carol_keyward_default"), "{said}");
    assert_eq!(world.ok(&["decrypt", "--partition", "alice"], &tea)?, b"tea");
    world.has_keys(&[(ALICE, "valid"), (SYSTEM, "valid")])?;
    assert_eq!(world.files()?, ["keyward.db", "keyward.key"], "and leaves no receipt");
    Ok(())
}

#[test]
fn who_does_not_say_the_partition_twice_destroys_nothing() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    for wrong in ["bob", "Alice", "alice ", ""] {
        let refusal = world.refused(&[&SHRED[..], &["--execute", "--confirm", wrong]].concat(), b"alice\n", 64)?;
        assert!(refusal.contains("differ"), "{refusal}");
    }
    // A pipe is nobody at a terminal.
    let refusal = world.refused(&[&SHRED[..], &["--execute"]].concat(), b"alice\n", 64)?;
    assert!(refusal.contains("hint: repeat the partition id with --confirm"), "{refusal}");
    let environment = world
        .command(&[&SHRED[..], &["--execute"]].concat())
        .env("KEYWARD_CONFIRM", "alice")
        .stdin(Stdio::null())
        .output()?;
    assert_eq!(environment.status.code(), Some(64));
    world.has_keys(&[(ALICE, "valid"), (SYSTEM, "valid")])?;
    assert_eq!(world.files()?, ["keyward.db", "keyward.key"]);
    Ok(())
}

#[test]
fn nothing_is_destroyed_where_no_receipt_can_be_written() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    world.write("old.json", b"an earlier receipt")?;
    for receipt in ["absent/receipt.json", ".", "old.json"] {
        let shred = [&SHRED[..], &["--execute", "--confirm", "alice", "--receipt", receipt]].concat();
        world.refused(&shred, b"", 73)?;
    }
    assert_eq!(world.read("old.json")?, b"an earlier receipt");
    world.has_keys(&[(ALICE, "valid"), (SYSTEM, "valid")])
}

#[test]
fn shredding_again_removes_what_others_added_and_each_time_leaves_a_receipt() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    let shred = [&SHRED[..], &["--execute", "--confirm", "alice"]].concat();
    world.says(&shred)?;
    world.row(ALICE, 1000, r#"{"Created":1000,"Key":"AAAA"}"#)?;
    let said = world.says(&shred)?;
    assert!(said.contains("1970-01-01T00:16:40Z  destroyed"), "{said}");
    assert!(world.says(&shred)?.contains("There was no key"), "and a third time nothing");
    assert!(world.says(&SHRED)?.contains("is shredded; nothing is left to destroy"));
    world.has_keys(&[(ALICE, "shredded"), (SYSTEM, "valid")])?;
    let receipts = world.files()?.into_iter().filter(|name| name.starts_with("keyward-shred-")).count();
    assert_eq!(receipts, 3);
    Ok(())
}

#[test]
fn a_partition_without_keys_can_be_kept_from_having_any() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    let shred = ["keys", "shred", "--partition", "bob", "--execute", "--confirm", "bob", "--receipt", "-"];
    let output = world.run(&shred, b"")?;
    let receipt: Value = serde_json::from_slice(&output.stdout)?;
    assert!(output.status.success() && String::from_utf8(output.stderr)?.contains("There was no key"));
    assert_eq!(receipt["destroyed"], Value::Array(Vec::new()));
    assert_eq!(
        (&receipt["tombstone"]["parent"]["id"], &receipt["tombstone"]["parent"]["created"]),
        (&SYSTEM.into(), &0.into())
    );
    world.has_keys(&[(ALICE, "valid"), (BOB, "shredded"), (SYSTEM, "valid")])?;
    assert!(world.refused(&["encrypt", "--partition", "bob"], b"ale", 65)?.contains("destroyed"));
    Ok(())
}

#[test]
fn restoring_a_copy_brings_the_keys_back_and_shredding_again_destroys_them() -> TestResult {
    let world = World::new()?;
    let tea = world.encrypt("alice", b"tea")?;
    let backup = world.read("keyward.db")?;
    let shred = [&SHRED[..], &["--execute", "--confirm", "alice"]].concat();
    world.says(&shred)?;
    world.refused(&["decrypt", "--partition", "alice"], &tea, 65)?;
    world.write("keyward.db", &backup)?;
    assert_eq!(world.ok(&["decrypt", "--partition", "alice"], &tea)?, b"tea");
    world.says(&shred)?;
    world.refused(&["decrypt", "--partition", "alice"], &tea, 65)?;
    Ok(())
}
