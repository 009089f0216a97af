//! Master keys in OpenBao.

use serde_json::{Value, json};

use crate::cli_support::{SYSTEM, TestResult, World, file_of};
use crate::servers::{OpenBao, OpenBaoSetup};
use crate::stage::{ended, outcomes, rows, text};

/// A folder, and a Transit key.
struct Stage<'a> {
    world: World,
    server: &'a OpenBao,
    key: String,
}

impl<'a> Stage<'a> {
    fn new(server: &'a OpenBao) -> TestResult<Self> {
        Ok(Self { world: World::new()?, server, key: server.new_key().map_err(text)? })
    }

    /// Returns a token that may do these things with the key, and read it.
    fn token(&self, words: &[&str]) -> TestResult<String> {
        let paths: Vec<String> = words.iter().map(|word| format!("transit/{word}/{}", self.key)).collect();
        let read = format!("transit/keys/{}", self.key);
        let rights = paths.iter().map(|path| (path.as_str(), "update")).chain([(read.as_str(), "read")]);
        let policy = self.server.policy(&rights.collect::<Vec<_>>()).map_err(text)?;
        self.server.token(&json!({"policies": [policy]})).map_err(text)
    }

    fn ends(&self, code: i32, token: &str, arguments: &[&str], input: &[u8]) -> TestResult<(String, String)> {
        let mut command = self.world.command(arguments);
        command.env("KEYWARD_KMS", format!("vault:{}/{}", self.server.url(), self.key));
        command.env("KEYWARD_KMS_TOKEN", token).stdin(file_of(input)?);
        ended(code, arguments, command.output()?)
    }

    fn says(&self, token: &str, arguments: &[&str], input: &[u8]) -> TestResult<String> {
        Ok(self.ends(0, token, arguments, input)?.0)
    }
}

#[test]
fn keys_under_an_old_version_of_the_master_key_are_put_under_the_latest() -> TestResult {
    let Some(server) = OpenBao::shared().map_err(text)? else { return Ok(()) };
    let stage = Stage::new(server)?;
    let operator = stage.token(&["encrypt", "decrypt", "rewrap"])?;
    let application = stage.token(&["encrypt", "decrypt"])?;
    let record = stage.says(&application, &["encrypt", "--partition", "alice"], b"tea")?;
    assert!(stage.says(&application, &["kms", "audit"], b"")?.contains("System keys: 1; 1 good."));
    server.ask("POST", &format!("transit/keys/{}/rotate", stage.key), &json!({})).map_err(text)?;

    let (said, _) = stage.ends(69, &application, &["kms", "audit"], b"")?;
    assert!(said.contains("to be repaired  wrapped under version 1, the latest is 2"), "{said}");
    let before = rows(&stage.world)?;
    let said = stage.says(&operator, &["kms", "repair"], b"")?;
    assert!(said.contains("1 would be repaired"), "{said}");
    let (said, _) = stage.ends(69, &application, &["kms", "repair", "--execute"], b"")?;
    assert!(said.contains("not repaired") && said.contains("transit/rewrap/"), "{said}");
    assert_eq!(rows(&stage.world)?, before);

    let (said, _) = stage.ends(0, &operator, &["kms", "repair", "--execute", "--json"], b"")?;
    let report: Value = serde_json::from_str(&said)?;
    assert_eq!(outcomes(&report), [format!("{SYSTEM} repaired")]);
    assert_eq!(report["keys"][0]["mended"], json!([{"kind": "outdated", "version": 1, "latest": 2}]));
    let repaired = rows(&stage.world)?;
    assert_ne!(repaired, before);
    assert!(stage.says(&operator, &["kms", "repair", "--execute"], b"")?.contains("1 good"));
    assert_eq!(rows(&stage.world)?, repaired, "running it again changes nothing");
    let said = stage.says(&application, &["decrypt", "--partition", "alice"], record.as_bytes())?;
    assert_eq!(said, "tea");
    Ok(())
}

#[test]
fn a_server_is_tried_step_by_step_up_to_the_right_that_is_missing() -> TestResult {
    let Some(server) = OpenBao::shared().map_err(text)? else { return Ok(()) };
    let stage = Stage::new(server)?;
    let said = stage.says(&stage.token(&["encrypt", "decrypt"])?, &["kms", "check"], b"")?;
    assert_eq!(said.matches("  ok\n").count(), 4, "{said}");
    let (said, _) = stage.ends(69, &stage.token(&["encrypt"])?, &["kms", "check"], b"")?;
    assert_eq!(said.matches("  ok\n").count(), 3, "{said}");
    assert!(said.contains("decrypt") && said.contains("access denied") && said.contains("transit/decrypt/"), "{said}");
    assert!(said.contains("cannot both be made and opened"), "{said}");
    let (said, complaint) = stage.ends(69, "s.5ec4e7", &["kms", "check"], b"")?;
    assert!(said.contains("login") && !format!("{said}{complaint}").contains("5ec4e7"), "{said}{complaint}");
    Ok(())
}

#[test]
fn a_sealed_server_is_asked_about_a_few_keys_and_not_about_all() -> TestResult {
    let Some(server) = OpenBao::start(&OpenBaoSetup::default()).map_err(text)? else { return Ok(()) };
    let stage = Stage::new(&server)?;
    let token = stage.token(&["encrypt", "decrypt"])?;
    for service in ["a", "b", "c", "d", "e", "f", "g"] {
        stage.says(&token, &["encrypt", "--partition", "alice", "--service", service], b"tea")?;
    }
    server.seal().map_err(text)?;
    let before = rows(&stage.world)?;
    for command in [&["kms", "audit"][..], &["kms", "repair", "--execute"]] {
        let (said, complaint) = stage.ends(75, &token, command, b"")?;
        assert!(said.contains("System keys: 7; 7 not looked at."), "{said}");
        assert_eq!(said.matches("not tried: the 3 before it failed").count(), 4, "{said}");
        assert!(complaint.contains("7 of the system keys"), "{complaint}");
    }
    assert_eq!(rows(&stage.world)?, before);
    server.unseal().map_err(text)?;
    assert!(stage.says(&token, &["kms", "audit"], b"")?.contains("7 good"));
    Ok(())
}
