//! Master keys of this machine, and what the commands say of themselves.

use serde_json::Value;

use crate::cli_support::{ALICE, TestResult, World};
use crate::stage::ended;

const MASTER_KEY: &str = "746869734973415374617469634d61737465724b6579466f7254657374696e67";

#[test]
fn a_master_key_of_this_machine_is_tried() -> TestResult {
    let world = World::new()?;
    let absent = world.refused(&["kms", "check"], b"", 78)?;
    assert!(absent.contains("keyward.key: not found"), "{absent}");
    assert!(world.files()?.is_empty(), "none was made");
    world.encrypt("alice", b"tea")?;
    let said = world.says(&["kms", "check"])?;
    assert!(said.contains("keyward.key") && said.contains("  ok\n") && said.contains("made and opened"), "{said}");
    let report: Value = serde_json::from_slice(&world.ok(&["kms", "check", "--json"], b"")?)?;
    assert_eq!((&report["working"], &report["places"][0]["steps"][0]["ok"]), (&Value::from(1), &Value::Bool(true)));

    let check = &["kms", "check", "--store", "sqlite:absent.db"];
    let output = world.command(check).env("KEYWARD_KMS", format!("static:{MASTER_KEY}")).output()?;
    let (said, complaint) = ended(0, check, output)?;
    assert!(said.contains("the static master key") && !complaint.contains(MASTER_KEY), "{said}{complaint}");
    assert!(!world.has("absent.db"), "it needs no store");

    world.write("short.key", b"too short")?;
    #[cfg(unix)]
    world.set_mode("short.key", 0o600)?;
    let wrong = world.refused(&["kms", "check", "--kms", "local:short.key"], b"", 78)?;
    assert!(wrong.contains("32 bytes"), "{wrong}");
    Ok(())
}

#[test]
fn rows_that_the_master_key_does_not_open_are_told_and_left() -> TestResult {
    let world = World::new()?;
    for command in ["audit", "repair"] {
        let refusal = world.refused(&["kms", command], b"", 66)?;
        assert!(refusal.contains("there is no store"), "{refusal}");
    }
    world.encrypt("alice", b"tea")?;
    world.row("_SK_dead_eu", 2_147_385_600, r#"{"Created":2147385600,"Key":"","Revoked":true}"#)?;
    let said = world.says(&["kms", "audit"])?;
    assert!(said.contains("System keys: 1; 1 good.") && !said.contains(ALICE), "{said}");
    let said = world.says(&["kms", "repair", "--execute"])?;
    assert!(said.contains("1 good") && said.contains("Nothing was changed"), "{said}");

    let strange = r#"{"Created":1000,"Key":"AAAA"}"#;
    world.row("_SK_a_b", 1000, "{")?;
    world.row("_SK_c_d", 1000, strange)?;
    for command in [&["kms", "audit"][..], &["kms", "repair"], &["kms", "repair", "--execute"]] {
        let (said, complaint) = ended(69, command, world.run(command, b"")?)?;
        assert!(said.contains("System keys: 3; 1 good, 1 not of this master key, 1 corrupt."), "{said}");
        assert!(complaint.contains("2 of the system keys") && complaint.contains("hint:"), "{complaint}");
    }
    assert_eq!((world.text("_SK_a_b", 1000)?, world.text("_SK_c_d", 1000)?), ("{".into(), strange.into()));
    let other = ["kms", "audit", "--json", "--kms", "local:other.key"];
    world.refused(&other, b"", 78)?;
    world.write("other.key", &[7; 32])?;
    #[cfg(unix)]
    world.set_mode("other.key", 0o600)?;
    let (said, _) = ended(69, &other, world.run(&other, b"")?)?;
    let report: Value = serde_json::from_str(&said)?;
    assert_eq!(report["counts"], serde_json::json!({"corrupt": 1, "not of this master key": 2}), "{report}");
    Ok(())
}

#[test]
fn each_command_explains_its_exit_codes_and_execute_stands_on_the_command_line() -> TestResult {
    let world = World::new()?;
    for command in ["check", "audit", "repair"] {
        let output = world.command(&["kms", command, "--help"]).env("KEYWARD_EXECUTE", "1").output()?;
        let help = String::from_utf8(output.stdout)?;
        assert!(help.contains("Examples:") && help.contains("Ends with"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 140), "{help}");
        assert!(!help.contains("KEYWARD_EXECUTE"), "{help}");
    }
    Ok(())
}
