//! The command as people and scripts use it: a process, its exit code, and what it leaves on stdout, stderr and disk.

#![cfg(all(feature = "cli", feature = "sqlite"))]

mod cli_support;

use std::error::Error;
use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::thread;

use serde_json::Value;

use cli_support::{TestResult, World, file_of};

const FORMATS: [&str; 3] = ["json", "base64", "binary"];
const MASTER_KEY: &str = "746869734973415374617469634d61737465724b6579466f7254657374696e67";

#[test]
fn a_payload_round_trips_in_every_format_through_pipes_and_files() -> TestResult {
    let world = World::new()?;
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    world.write("payload", &every_byte)?;
    for format in FORMATS {
        let record = world.ok(&["encrypt", "--partition", "alice", "--format", format], &every_byte)?;
        assert_eq!(record.ends_with(b"\n"), format != "binary", "{format}");
        assert_eq!(world.ok(&["decrypt", "--partition", "alice", "--format", format], &record)?, every_byte);
        assert_eq!(world.ok(&["decrypt", "--partition", "alice"], &record)?, every_byte, "detecting {format}");

        let to_file = ["encrypt", "--partition", "alice", "--format", format, "--in", "payload", "--out", "record"];
        assert_eq!(world.ok(&to_file, b"")?, b"");
        assert_eq!(world.ok(&["decrypt", "--partition", "alice", "--in", "record", "--out", "plain"], b"")?, b"");
        assert_eq!(world.read("plain")?, every_byte);
        let standard = ["decrypt", "--partition", "alice", "--in", "-", "--out", "-"];
        assert_eq!(world.ok(&standard, &world.read("record")?)?, every_byte);
    }
    assert_eq!(world.files()?, ["keyward.db", "keyward.key", "payload", "plain", "record"]);
    Ok(())
}

#[test]
fn blanks_around_text_and_line_breaks_in_base64_do_not_matter() -> TestResult {
    let world = World::new()?;
    let json = world.encrypt("alice", b"tea")?;
    assert_eq!(world.ok(&["decrypt", "--partition", "alice"], &[b"\r\n  ", &json[..], b" \n"].concat())?, b"tea");
    let base64 = world.ok(&["encrypt", "--partition", "alice", "--format", "base64"], b"tea")?;
    let wrapped: Vec<u8> = base64.chunks(64).flat_map(|line| [line, b"\n"].concat()).collect();
    assert_eq!(world.ok(&["decrypt", "--partition", "alice"], &wrapped)?, b"tea");
    Ok(())
}

#[test]
fn an_empty_payload_round_trips() -> TestResult {
    let world = World::new()?;
    for format in FORMATS {
        let record = world.ok(&["encrypt", "--partition", "alice", "--format", format], b"")?;
        assert_eq!(world.ok(&["decrypt", "--partition", "alice"], &record)?, b"");
    }
    Ok(())
}

#[test]
fn twenty_megabytes_round_trip() -> TestResult {
    let world = World::new()?;
    let payload: Vec<u8> = (0..20_u32 << 18).flat_map(u32::to_le_bytes).collect();
    world.write("payload", &payload)?;
    for format in ["json", "binary"] {
        let record = world.ok(&["encrypt", "--partition", "alice", "--in", "payload", "--format", format], b"")?;
        assert!(world.ok(&["decrypt", "--partition", "alice"], &record)? == payload, "{format}");
    }
    Ok(())
}

#[test]
fn another_partition_service_or_product_is_refused() -> TestResult {
    let world = World::new()?;
    let record = world.encrypt("alice", b"tea")?;
    for other in [
        &["--partition", "bob"][..],
        &["--partition", "alice", "--service", "other"],
        &["--partition", "alice", "--product", "other"],
    ] {
        let refusal = world.refused(&[&["decrypt"], other].concat(), &record, 65)?;
        assert!(refusal.contains("belongs to another partition"), "{refusal}");
        assert!(refusal.contains("hint: give the --partition"), "{refusal}");
    }
    Ok(())
}

#[test]
fn a_damaged_record_is_refused_and_an_existing_file_is_kept() -> TestResult {
    let world = World::new()?;
    world.write("plain", b"as it was")?;
    let binary = world.ok(&["encrypt", "--partition", "alice", "--format", "binary"], b"tea")?;
    let json = world.encrypt("alice", b"tea")?;
    let mut flipped = binary.clone();
    *flipped.last_mut().ok_or("an empty record")? ^= 1;
    let changed = String::from_utf8(json.clone())?.replace("\"Data\":\"", "\"Data\":\"AAAA");
    for damaged in [flipped, binary[..binary.len() / 2].to_vec(), json[..json.len() / 2].to_vec(), changed.into_bytes()]
    {
        world.refused(&["decrypt", "--partition", "alice", "--out", "plain"], &damaged, 65)?;
        assert_eq!(world.read("plain")?, b"as it was");
    }
    for (format, no_record) in
        [("json", &b"tea"[..]), ("json", b""), ("base64", b"{}"), ("binary", b"{}"), ("json", b"{}")]
    {
        world.refused(&["decrypt", "--partition", "alice", "--format", format], no_record, 65)?;
    }
    assert_eq!(world.files()?, ["keyward.db", "keyward.key", "plain"]);
    Ok(())
}

#[test]
fn usage_errors_are_told_from_help() -> TestResult {
    let world = World::new()?;
    for wrong in [
        &[][..],
        &["encrypt"],
        &["encrypt", "--partition", "alice", "--surprise"],
        &["encrypt", "--partition", "alice", "--format", "xml"],
        &["encrypt", "--partition", "alice", "--max-payload", "much"],
        &["encrypt", "--partition", "alice", "--expire-after", "soon"],
        &["encrypt", "--partition", ""],
        &["surprise"],
    ] {
        assert!(!world.refused(wrong, b"", 64)?.is_empty(), "{wrong:?}");
    }
    let help = String::from_utf8(world.ok(&["--help"], b"")?)?;
    assert!(help.contains("Examples:") && help.contains("KEYWARD_STORE"), "{help}");
    assert_eq!(world.files()?.len(), 2, "only the empty partition got as far as opening store and key");
    Ok(())
}

#[test]
fn a_store_or_key_service_that_is_not_there_is_named_and_a_key_is_not() -> TestResult {
    let world = World::new()?;
    for store in ["surprise:5ec4e7", "5ec4e7", "sqlite", "memory:5ec4e7", ""] {
        let refusal = world.refused(&["keys", "list", "--store", store], b"", 64)?;
        assert!(refusal.contains("invalid value for '--store'") && refusal.contains("sqlite:"), "{refusal}");
        assert!(!refusal.contains("5ec4e7"), "it may hold a password: {refusal}");
    }
    for key in ["static:5ec4e7", "5ec4e7", "surprise:5ec4e7"] {
        let refusal = world.refused(&["encrypt", "--partition", "alice", "--kms", key], b"", 64)?;
        assert!(refusal.contains("--kms") && !refusal.contains("5ec4e7"), "{refusal}");
    }
    Ok(())
}

#[test]
fn a_key_on_the_command_line_is_warned_about_and_never_shown() -> TestResult {
    let world = World::new()?;
    let key = format!("static:{MASTER_KEY}");
    let seen = world.command(&["encrypt", "--partition", "alice", "--kms", &key]).stdin(Stdio::null()).output()?;
    let complaint = String::from_utf8(seen.stderr)?;
    assert!(seen.status.success() && complaint.contains("other users of this machine can see"), "{complaint}");
    assert!(!complaint.contains(MASTER_KEY), "{complaint}");

    let hidden = world
        .command(&["decrypt", "--partition", "alice"])
        .env("KEYWARD_KMS", &key)
        .stdin(file_of(&seen.stdout)?)
        .output()?;
    let complaint = String::from_utf8(hidden.stderr)?;
    assert!(hidden.status.success() && !complaint.contains("other users"), "{complaint}");

    let help = world.command(&["encrypt", "--help"]).env("KEYWARD_KMS", &key).output()?;
    assert!(help.status.success() && !String::from_utf8(help.stdout)?.contains(MASTER_KEY));
    Ok(())
}

#[cfg(feature = "postgres")]
#[test]
fn a_store_on_a_server_that_is_not_there_is_named_without_its_password() -> TestResult {
    let world = World::new()?;
    let bare = "postgres://keyward@127.0.0.1:1/keys";
    let full = "postgres://keyward:hunter2@127.0.0.1:1/keys";
    world.write("password", b"hunter2\n")?;
    let encrypt = ["encrypt", "--partition", "alice"];
    let with = |options: &[&'static str]| [&encrypt[..], options].concat();
    let ways: [(Vec<&str>, Environment<'_>, bool); 7] = [
        (with(&["--store", full]), &[], true),
        (with(&["--store", bare, "--store-password", "hunter2"]), &[], true),
        (with(&["--store", bare]), &[], false),
        (with(&["--store", bare, "--store-password-file", "password"]), &[], false),
        (with(&["--store", bare]), &[("KEYWARD_STORE_PASSWORD", "hunter2")], false),
        (with(&[]), &[("KEYWARD_STORE", full)], false),
        (vec!["migrate", "--apply"], &[("KEYWARD_STORE", full)], false),
    ];
    for (arguments, environment, warns) in ways {
        let output = world.command(&arguments).envs(environment.iter().copied()).stdin(Stdio::null()).output()?;
        let complaint = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(75), "{arguments:?}: {complaint}");
        assert!(complaint.contains("127.0.0.1:1") && !complaint.contains("hunter2"), "{arguments:?}: {complaint}");
        assert_eq!(complaint.contains("see a password on the command line"), warns, "{arguments:?}: {complaint}");
    }
    assert_eq!(world.files()?, ["password"], "no master key is made for a store that may have keys");
    let help = world.command(&["encrypt", "--help"]).env("KEYWARD_STORE", full).output()?;
    assert!(help.status.success() && !String::from_utf8(help.stdout)?.contains("hunter2"));
    Ok(())
}

#[cfg(feature = "passphrase")]
#[test]
fn a_sealed_master_key_needs_its_passphrase_which_is_never_shown() -> TestResult {
    let world = World::new()?;
    world.write("passphrase", b"hunter2\n")?;
    world.write("keyward.toml", b"kms = 'sealed:master.key'\nkms-passphrase = 'hunter2'\n")?;
    let encrypt = ["encrypt", "--partition", "alice", "--kms", "sealed:master.key"];
    let with = |options: &[&'static str]| [&encrypt[..], options].concat();

    let none = world.refused(&encrypt, b"", 64)?;
    assert!(none.contains("KEYWARD_KMS_PASSPHRASE") && none.contains("--kms-passphrase-file"), "{none}");
    assert!(!world.has("master.key") && !world.has("keyward.db"), "nothing is made without it");
    world.ok(&with(&["--kms-passphrase-file", "passphrase"]), b"")?;
    assert!(world.read("master.key")?.starts_with(b"keyward sealed key 1\n"));

    let ways: [(Vec<&str>, Environment<'_>, i32, bool); 5] = [
        (with(&["--kms-passphrase", "hunter2"]), &[], 0, true),
        (with(&[]), &[("KEYWARD_KMS_PASSPHRASE", "hunter2")], 0, false),
        (vec!["encrypt", "--partition", "alice", "--config", "keyward.toml"], &[], 0, false),
        (
            vec!["encrypt", "--partition", "alice", "--config", "keyward.toml"],
            &[("KEYWARD_KMS_PASSPHRASE", "hunter3")],
            78,
            false,
        ),
        (with(&["--kms-passphrase", "hunter2", "--kms-passphrase-file", "passphrase"]), &[], 64, false),
    ];
    for (arguments, environment, code, warns) in ways {
        let output = world.command(&arguments).envs(environment.iter().copied()).stdin(Stdio::null()).output()?;
        let complaint = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}");
        assert!(!complaint.contains("hunter"), "{arguments:?}: {complaint}");
        assert_eq!(complaint.contains("see a secret on the command line"), warns, "{arguments:?}: {complaint}");
    }
    let plain = world.refused(&["encrypt", "--partition", "alice", "--kms", "local:master.key"], b"", 78)?;
    assert!(plain.contains("name it as `sealed:PATH`"), "{plain}");
    let help = world.command(&["encrypt", "--help"]).env("KEYWARD_KMS_PASSPHRASE", "hunter2").output()?;
    assert!(help.status.success() && !String::from_utf8(help.stdout)?.contains("hunter2"));
    Ok(())
}

/// Variables, with their values.
type Environment<'a> = &'a [(&'a str, &'a str)];

#[test]
fn a_password_for_a_store_that_has_none_does_no_harm_and_a_missing_file_is_named() -> TestResult {
    let world = World::new()?;
    world.write("password", b"hunter2\n")?;
    let encrypt = ["encrypt", "--partition", "alice", "--store-password-file"];
    let record = world.says(&[&encrypt[..], &["password"]].concat())?;
    assert!(record.starts_with('{') && !record.contains("hunter2"), "{record}");
    let absent = world.refused(&[&encrypt[..], &["absent"]].concat(), b"", 66)?;
    assert!(absent.contains("cannot open absent"), "{absent}");
    let both = [&encrypt[..], &["password", "--store-password", "hunter2"]].concat();
    assert!(!world.refused(&both, b"", 64)?.contains("hunter2"));
    Ok(())
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() -> TestResult {
    let world = World::new()?;
    world.write("keyward.toml", b"store = 'sqlite:file.db'\nmax-payload = '1K'\nexpire-after = '30d'\n")?;
    let encrypt = ["encrypt", "--partition", "alice", "--config", "keyward.toml"];
    world.ok(&encrypt, b"")?;
    assert!(world.has("file.db"));

    let environment =
        world.command(&encrypt).env("KEYWARD_STORE", "sqlite:environment.db").stdin(Stdio::null()).output()?;
    assert!(environment.status.success() && world.has("environment.db"));

    let flag = world
        .command(&[&encrypt[..], &["--store", "sqlite:flag.db"]].concat())
        .env("KEYWARD_STORE", "sqlite:other.db")
        .stdin(Stdio::null())
        .output()?;
    assert!(flag.status.success() && world.has("flag.db") && !world.has("other.db") && !world.has("keyward.db"));

    world.refused(&encrypt, &[0; 1025], 65)?;
    let config =
        world.command(&encrypt[..3]).env("KEYWARD_CONFIG", "keyward.toml").stdin(file_of(&[0; 1025])?).output()?;
    assert_eq!(config.status.code(), Some(65), "KEYWARD_CONFIG names the file too");
    Ok(())
}

#[test]
fn more_is_logged_when_asked_for() -> TestResult {
    let world = World::new()?;
    let verbose = world.command(&["encrypt", "--partition", "alice", "-v"]).env("KEYWARD_LOG", "off").output()?;
    let log = String::from_utf8(verbose.stderr)?;
    assert!(log.contains("made a key") && !log.contains("alice"), "{log}");
    Ok(())
}

#[test]
fn an_unknown_key_in_the_configuration_is_named() -> TestResult {
    let world = World::new()?;
    for (text, part) in [
        ("service = 'a'\nsurprise = 1\n", "line 2: unknown field `surprise`"),
        ("expire-after = 'soon'\n", "line 1"),
        ("kms = 'static:5ec4e7'\n", "64 hex digits"),
        ("store = 'surprise:5ec4e7'\n", "not the name of a store"),
        ("not toml", "line 1"),
    ] {
        world.write("keyward.toml", text.as_bytes())?;
        let refusal = world.refused(&["keys", "list", "--config", "keyward.toml"], b"", 78)?;
        assert!(refusal.contains(part) && refusal.contains("keyward.toml"), "{refusal}");
        assert!(!refusal.contains("5ec4e7"), "{refusal}");
    }
    world.refused(&["keys", "list", "--config", "absent.toml"], b"", 78)?;
    world.refused(&["encrypt", "--partition", "alice", "--expire-after", "0s"], b"", 78)?;
    Ok(())
}

#[test]
fn missing_input_and_impossible_output_are_told_apart() -> TestResult {
    let world = World::new()?;
    let absent = world.refused(&["encrypt", "--partition", "alice", "--in", "absent"], b"", 66)?;
    assert!(absent.contains("cannot open absent: No such file"), "{absent}");
    world.refused(&["encrypt", "--partition", "alice", "--in", "."], b"", 66)?;
    world.refused(&["encrypt", "--partition", "alice", "--out", "absent/record"], b"", 73)?;
    world.refused(&["encrypt", "--partition", "alice", "--out", "."], b"", 73)?;
    assert!(world.files()?.is_empty(), "nothing was made on the way");
    Ok(())
}

#[cfg(unix)]
#[test]
fn secrets_are_written_for_their_owner_alone() -> TestResult {
    let world = World::new()?;
    let record = world.encrypt("alice", b"tea")?;
    world.write("plain", b"old")?;
    world.set_mode("plain", 0o644)?;
    world.ok(&["decrypt", "--partition", "alice", "--out", "plain"], &record)?;
    for file in ["keyward.key", "keyward.db", "plain"] {
        assert_eq!(world.mode(file)?, 0o600, "{file}");
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn output_to_a_link_or_a_device_replaces_neither() -> TestResult {
    let world = World::new()?;
    world.write("target", b"old")?;
    std::os::unix::fs::symlink("target", world.path("link"))?;
    world.ok(&["encrypt", "--partition", "alice", "--out", "link"], b"tea")?;
    assert!(fs::symlink_metadata(world.path("link"))?.is_symlink());
    assert!(world.read("target")?.starts_with(b"{"));

    world.ok(&["encrypt", "--partition", "alice", "--out", "/dev/null"], b"tea")?;
    let kind = fs::metadata("/dev/null")?.file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&kind));
    Ok(())
}

#[cfg(unix)]
#[test]
fn an_unfit_key_file_is_refused() -> TestResult {
    let world = World::new()?;
    let encrypt = ["encrypt", "--partition", "alice"];
    world.write("keyward.key", &[7; 31])?;
    world.set_mode("keyward.key", 0o600)?;
    assert!(world.refused(&encrypt, b"", 78)?.contains("32 bytes"));
    world.write("keyward.key", &[7; 32])?;
    world.set_mode("keyward.key", 0o644)?;
    assert!(world.refused(&encrypt, b"", 78)?.contains("chmod 600"));
    world.refused(&["encrypt", "--partition", "alice", "--kms", "local:absent/key"], b"", 78)?;
    Ok(())
}

#[test]
fn another_master_key_does_not_open_the_store() -> TestResult {
    let world = World::new()?;
    let record = world.encrypt("alice", b"tea")?;
    let elsewhere = ["encrypt", "--partition", "alice", "--store", "sqlite:other.db", "--kms", "local:other.key"];
    world.ok(&elsewhere, b"tea")?;
    let decrypt = ["decrypt", "--partition", "alice", "--kms", "local:other.key"];
    let refusal = world.refused(&decrypt, &record, 78)?;
    assert!(refusal.contains("master key") && refusal.contains("hint: give the --kms"), "{refusal}");
    world.refused(&["encrypt", "--partition", "alice", "--kms", "local:other.key"], b"tea", 78)?;
    Ok(())
}

#[test]
fn a_master_key_is_made_for_a_new_store_alone() -> TestResult {
    let world = World::new()?;
    world.refused(&["decrypt", "--partition", "alice"], b"{}", 66)?;
    assert!(world.files()?.is_empty(), "decrypting makes nothing");
    let record = world.encrypt("alice", b"tea")?;
    for arguments in [["encrypt", "--partition", "alice"], ["decrypt", "--partition", "alice"]] {
        let mistyped = [&arguments[..], &["--kms", "local:keywart.key"]].concat();
        let refusal = world.refused(&mistyped, &record, 78)?;
        assert!(refusal.contains("keywart.key"), "{refusal}");
    }
    assert_eq!(world.files()?, ["keyward.db", "keyward.key"]);
    Ok(())
}

#[test]
fn a_copy_of_the_two_files_opens_what_was_encrypted() -> TestResult {
    let (world, copy) = (World::new()?, World::new()?);
    let record = world.encrypt("alice", b"tea")?;
    copy.write("keyward.db", &world.read("keyward.db")?)?;
    fs::copy(world.path("keyward.key"), copy.path("keyward.key"))?;
    assert_eq!(copy.ok(&["decrypt", "--partition", "alice"], &record)?, b"tea");
    Ok(())
}

#[test]
fn a_file_that_is_no_database_is_left_alone() -> TestResult {
    let world = World::new()?;
    world.ok(&["encrypt", "--partition", "alice", "--store", "sqlite:other.db"], b"tea")?;
    world.write("keyward.db", &b"no database ".repeat(100))?;
    let refusal = world.refused(&["encrypt", "--partition", "alice"], b"tea", 69)?;
    assert!(refusal.contains("no SQLite database"), "{refusal}");
    world.refused(&["keys", "list"], b"", 69)?;
    assert_eq!(world.read("keyward.db")?, b"no database ".repeat(100));
    Ok(())
}

#[test]
fn input_beyond_the_limit_is_refused_while_it_is_read() -> TestResult {
    let world = World::new()?;
    let encrypt = ["encrypt", "--partition", "alice", "--max-payload", "1K"];
    let record = world.ok(&encrypt, &[7; 1024])?;
    world.refused(&encrypt, &[7; 1025], 65)?;
    world.write("payload", &[7; 1025])?;
    let refusal = world.refused(&[&encrypt[..], &["--in", "payload"]].concat(), b"", 65)?;
    assert!(refusal.contains("hint: raise --max-payload"), "{refusal}");
    world.refused(&["decrypt", "--partition", "alice", "--max-payload", "1000"], &record, 65)?;

    // An endless pipe: the command ends although its input does not.
    let mut child =
        world.command(&encrypt).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut pipe = child.stdin.take().ok_or("no stdin")?;
    let feeder = thread::spawn(move || while pipe.write_all(&[7; 4096]).is_ok() {});
    let output = child.wait_with_output()?;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(65), 0));
    feeder.join().map_err(|_| "the feeder panicked")?;
    Ok(())
}

#[test]
fn keys_are_listed_for_people_and_for_programs() -> TestResult {
    let world = World::new()?;
    let missing = world.refused(&["keys", "list"], b"", 66)?;
    assert!(missing.contains("there is no store keyward.db"), "{missing}");
    assert!(world.files()?.is_empty(), "looking makes neither store nor key");

    world.encrypt("bob", b"tea")?;
    world.encrypt("alice", b"tea")?;
    fs::remove_file(world.path("keyward.key"))?;
    let table = String::from_utf8(world.ok(&["keys", "list"], b"")?)?;
    let first: Vec<&str> = table.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(first, ["ID", "_IK_alice_keyward_default", "_IK_bob_keyward_default", "_SK_keyward_default"], "{table}");
    assert!(!world.has("keyward.key"), "listing needs no master key");

    let all: Value = serde_json::from_slice(&world.ok(&["keys", "list", "--json"], b"")?)?;
    assert_eq!(all[0]["kind"], "intermediate");
    assert_eq!(all[0]["state"], "valid");
    assert_eq!(all[0]["parent"]["id"], "_SK_keyward_default");
    assert_eq!(all[2]["parent"], Value::Null);

    let ids = |options: &[&str]| -> Result<Vec<String>, Box<dyn Error>> {
        let found: Vec<Value> =
            serde_json::from_slice(&world.ok(&[&["keys", "list", "--json"], options].concat(), b"")?)?;
        Ok(found.iter().filter_map(|key| key["id"].as_str().map(str::to_owned)).collect())
    };
    let environment = world.command(&["keys", "list"]).env("KEYWARD_JSON", "1").output()?;
    assert_eq!(serde_json::from_slice::<Value>(&environment.stdout)?, all);
    assert_eq!(ids(&["--partition", "bob"])?, ["_IK_bob_keyward_default"]);
    assert_eq!(ids(&["--kind", "system"])?, ["_SK_keyward_default"]);
    assert_eq!(ids(&["--kind", "intermediate"])?.len(), 2);
    assert!(ids(&["--partition", "carol"])?.is_empty());
    Ok(())
}

#[test]
fn keys_in_every_state_are_listed_and_foreign_rows_are_not() -> TestResult {
    let world = World::new()?;
    world.encrypt("alice", b"tea")?;
    let table = rusqlite::Connection::open(world.path("keyward.db"))?;
    let insert = "INSERT INTO encryption_key VALUES (?1, datetime(?2, 'unixepoch'), ?3)";
    for (id, created, record) in [
        ("_IK_corrupt_s_p", 1_700_000_000_i64, "{".to_owned()),
        ("_IK_expired_s_p", 1_000, r#"{"Created":1000,"Key":"AAAA"}"#.to_owned()),
        ("_IK_revoked_s_p", 1_000, r#"{"Revoked":true,"Created":1000,"Key":"AAAA"}"#.to_owned()),
        ("somebody's note", 1_000, "{}".to_owned()),
    ] {
        table.execute(insert, (id, created, record))?;
    }
    drop(table);
    let keys: Vec<Value> = serde_json::from_slice(&world.ok(&["keys", "list", "--json"], b"")?)?;
    let states: Vec<&str> = keys.iter().filter_map(|key| key["state"].as_str()).collect();
    assert_eq!(states, ["valid", "corrupt", "expired", "revoked", "valid"]);
    Ok(())
}

#[test]
fn the_demo_tells_its_story_on_one_screen_and_leaves_nothing_behind() -> TestResult {
    let world = World::new()?;
    let temporary = world.path("tmp");
    fs::create_dir(&temporary)?;
    for with_readme in [false, true] {
        if with_readme {
            world.write("README.md", &b"# A readme\n".repeat(1000))?;
        }
        let output = world.command(&["demo"]).env("TMPDIR", &temporary).stdin(Stdio::null()).output()?;
        let (story, complaints) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        assert!(output.status.success() && complaints.is_empty(), "{complaints}");
        assert!(story.lines().count() <= 40, "{story}");
        assert_eq!(story.lines().find(|line| line.chars().count() > 100), None, "{story}");
        for part in [
            "refused: the record belongs to another partition",
            r#""ParentKeyMeta":{"KeyId":"_IK_alice_app_eu""#,
            "all bytes are equal",
            "under a new key",
            "still decrypts",
            "_IK_bob_app_eu",
            "expired",
            "secret memory only",
            "The folder is removed",
            if with_readme { "README.md (11000 bytes)" } else { "a built-in text" },
        ] {
            assert!(story.contains(part), "{part} is not in\n{story}");
        }
        assert!(!story.contains('\u{1b}'), "no colour in a pipe");
    }
    assert_eq!(fs::read_dir(temporary)?.count(), 0);
    assert_eq!(world.files()?, ["README.md", "tmp"]);
    world.refused(&["demo", "absent"], b"", 66)?;
    Ok(())
}

#[test]
fn the_demo_plays_in_the_store_that_is_named_and_leaves_its_keys() -> TestResult {
    let world = World::new()?;
    let record = world.encrypt("alice", b"tea")?;
    let output = world.command(&["demo", "--store", "sqlite:keyward.db", "--kms", "local:keyward.key"]).output()?;
    let (story, complaints) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    assert!(story.contains("still decrypts") && !story.contains("The folder is removed"), "{story}");
    let ids: Vec<String> = world.states()?.into_iter().map(|(id, _)| id).collect();
    let own = ["_IK_alice_keyward_default", "_SK_keyward_default"];
    assert!(own.iter().all(|own| ids.iter().any(|id| id == own)), "{ids:?}");
    assert!(ids.iter().filter(|id| !own.contains(&id.as_str())).count() >= 3, "those of the demonstration: {ids:?}");
    assert_eq!(world.ok(&["decrypt", "--partition", "alice"], &record)?, b"tea", "nobody else's keys are touched");
    // The environment does not make a demonstration leave something.
    let before = world.states()?;
    let output = world.command(&["demo"]).env("KEYWARD_STORE", "sqlite:keyward.db").output()?;
    assert!(output.status.success() && String::from_utf8(output.stdout)?.contains("The folder is removed"));
    assert_eq!(world.states()?, before);
    Ok(())
}

#[test]
fn completions_are_printed_for_shells() -> TestResult {
    let world = World::new()?;
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(world.ok(&["completions", shell], b"")?)?;
        assert!(script.contains("max-payload"), "{shell}");
    }
    Ok(())
}

#[test]
fn the_version_is_that_of_the_package() -> TestResult {
    let version = String::from_utf8(World::new()?.ok(&["--version"], b"")?)?;
    assert!(version.starts_with(concat!("keyward ", env!("CARGO_PKG_VERSION"))), "{version}");
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_seen_enough_is_no_error() -> TestResult {
    let world = World::new()?;
    let payload = file_of(&vec![7; 1 << 20])?;
    let mut child = world
        .command(&["encrypt", "--partition", "alice"])
        .stdin(payload)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
