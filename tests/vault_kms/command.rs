//! The command with a master key in Vault.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::stage::{OpenBao, Role, TestResult, all_of};

/// Variables, with their values.
type Environment<'a> = &'a [(&'a str, &'a str)];

struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn run(&self, arguments: &[&str], environment: Environment<'_>, input: &[u8]) -> TestResult<Output> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keyward"))
            .args(arguments)
            .args(["--partition", "alice", "--memory-policy", "relaxed"])
            .envs(environment.iter().copied())
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // A command that refuses reads nothing.
        let _ = child.stdin.take().ok_or("a pipe")?.write_all(input);
        Ok(child.wait_with_output()?)
    }
}

#[test]
fn the_command_takes_secrets_from_files_and_the_environment() -> TestResult {
    let Some(server) = OpenBao::shared()? else { return Ok(()) };
    let world = World { folder: tempfile::tempdir()? };
    let key = server.new_key()?;
    let token = server.token(&json!({"policies": [all_of(server, &key)?]}))?;
    let role = Role::new(server, &key, &json!({}))?;
    let (by_token, by_role) = (format!("vault:{}/{key}", server.url()), role.address(&server.url(), &key));
    fs::write(world.folder.path().join("token"), format!("{token}\n"))?;
    fs::write(world.folder.path().join("secret-id"), &role.secret_id)?;
    fs::write(world.folder.path().join("keyward.toml"), format!("kms = \"{by_token}\"\nkms-token-file = \"token\"\n"))?;

    let record = world.run(&["encrypt", "--kms", &by_token], &[("KEYWARD_KMS_TOKEN", &token)], b"tea")?;
    assert!(record.status.success(), "{}", String::from_utf8_lossy(&record.stderr));
    let ways: [(&[&str], Environment<'_>, bool); 7] = [
        (&["--kms", &by_token], &[("KEYWARD_KMS_TOKEN", &token)], false),
        (&["--kms", &by_token, "--kms-token-file", "token"], &[], false),
        (&["--kms", &by_token, "--kms-token", &token], &[], true),
        (&["--config", "keyward.toml"], &[], false),
        (&["--kms", &by_role], &[("KEYWARD_KMS_SECRET_ID", &role.secret_id), ("KEYWARD_KMS_TOKEN", "unused")], false),
        (&["--kms", &by_role, "--kms-secret-id-file", "secret-id"], &[], false),
        (&["--kms", &by_token], &[("KEYWARD_KMS_TOKEN_FILE", "token")], false),
    ];
    for (options, environment, warns) in ways {
        let arguments = [&["decrypt"], options].concat();
        let output = world.run(&arguments, environment, &record.stdout)?;
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout, b"tea", "{options:?}: {words}");
        assert_eq!(words.contains("see a secret on the command line"), warns, "{options:?}: {words}");
    }
    // What is given here takes precedence over the file, whichever way either is given.
    let output =
        world.run(&["decrypt", "--config", "keyward.toml"], &[("KEYWARD_KMS_TOKEN", "s.5ec4e7")], &record.stdout)?;
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !words.contains("5ec4e7") && words.contains(&server.url()), "{words}");

    let none = world.run(&["decrypt", "--kms", &by_token], &[], &record.stdout)?;
    let words = String::from_utf8_lossy(&none.stderr);
    assert_eq!(none.status.code(), Some(78), "{words}");
    assert!(words.contains("give a token"), "{words}");
    let plain = world.run(&["decrypt", "--kms", "vault:http://vault.example/k"], &[], b"")?;
    let words = String::from_utf8_lossy(&plain.stderr);
    assert_eq!(plain.status.code(), Some(64), "{words}");
    assert!(words.contains("plaintext"), "{words}");
    Ok(())
}
