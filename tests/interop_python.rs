//! One SQLite file, two implementations: the `keyward` command and the Python package `asherah` 0.5.56.
//!
//! Needs `KEYWARD_INTEROP_PYTHON`, the path of a Python that has the package; `scripts/test` makes one and runs
//! `cargo test --test interop_python -- --ignored`.

#![cfg(all(feature = "cli", feature = "sqlite"))]

mod peers;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rusqlite::Connection;
use serde_json::Value;

use peers::{Kind, MASTER_KEY_HEX, PRODUCT, Peer, SERVICE, TestResult, is_note};

const PARTITIONS: [&str; 7] = ["Alice", "alice", r#"q"uote\back"#, "amp&<lt>", "ünïcødé-漢", "a b", "user@example.com"];

#[test]
#[ignore = "needs the Python package asherah; scripts/test has it and runs this"]
fn records_and_keys_cross_both_ways_when_the_peer_comes_first() -> TestResult {
    let mut world = World::new()?;
    world.cross(Side::Peer)
}

#[test]
#[ignore = "needs the Python package asherah; scripts/test has it and runs this"]
fn records_and_keys_cross_both_ways_when_keyward_comes_first() -> TestResult {
    let mut world = World::new()?;
    world.cross(Side::Keyward)
}

#[test]
#[ignore = "needs the Python package asherah; scripts/test has it and runs this"]
fn neither_side_reads_what_it_should_not() -> TestResult {
    let mut world = World::new()?;
    for writer in [Side::Peer, Side::Keyward] {
        for partition in PARTITIONS {
            world.encrypt(writer, partition, b"not yours")?;
        }
        let record = world.encrypt(writer, "Alice", b"not yours")?;
        let changed = with_changed_payload(&record)?;
        for reader in [Side::Peer, Side::Keyward] {
            for partition in PARTITIONS.into_iter().filter(|&partition| partition != "Alice") {
                let read = world.decrypt(reader, partition, &record)?;
                assert!(read.is_none(), "{reader:?} read a record of {writer:?} as {partition}: {read:?}");
            }
            assert_eq!(world.decrypt(reader, "Alice", &changed)?, None, "{reader:?} read a changed record");
            assert_eq!(world.decrypt(reader, "Alice", "{}")?, None, "{reader:?} read what is no record");
            assert_eq!(world.decrypt(reader, "Alice", &record)?.as_deref(), Some(&b"not yours"[..]));
        }
    }
    world.assert_one_row_per_key(&PARTITIONS)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Side {
    Keyward,
    Peer,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Keyward => Self::Peer,
            Self::Peer => Self::Keyward,
        }
    }
}

/// A key table in a file of its own, and both implementations on it.
struct World {
    folder: tempfile::TempDir,
    database: PathBuf,
    peer: Peer,
}

impl World {
    fn new() -> TestResult<Self> {
        let folder = tempfile::tempdir()?;
        let database = folder.path().join("keys.db");
        let peer = Peer::on_file(Kind::Rust, &database)?;
        Ok(Self { folder, database, peer })
    }

    /// Both sides read what both sides wrote; `first` creates the system key, and the keys of every other partition.
    fn cross(&mut self, first: Side) -> TestResult {
        let every_byte: Vec<u8> = (0..=u8::MAX).collect();
        let large: Vec<u8> = every_byte.iter().copied().cycle().take(64 << 10).collect();
        let payloads: [&[u8]; 4] = [b"", b"tea", &every_byte, &large];
        let mut creator = first;
        for partition in PARTITIONS {
            for writer in [creator, creator.other()] {
                for payload in payloads {
                    let record = self.encrypt(writer, partition, payload)?;
                    self.assert_parent_is_stored(partition, &record)?;
                    for reader in [Side::Keyward, Side::Peer] {
                        let read = self.decrypt(reader, partition, &record)?;
                        assert!(
                            read.as_deref() == Some(payload),
                            "{reader:?} does not read {} bytes that {writer:?} wrote for {partition}",
                            payload.len(),
                        );
                    }
                }
            }
            creator = creator.other();
        }
        self.assert_one_row_per_key(&PARTITIONS)
    }

    fn encrypt(&mut self, side: Side, partition: &str, payload: &[u8]) -> TestResult<String> {
        match side {
            Side::Peer => self.peer.encrypt(partition, payload),
            Side::Keyward => {
                let output = self.keyward("encrypt", partition, payload)?;
                if !output.status.success() {
                    return Err(complaint("keyward encrypt", &output).into());
                }
                Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
            }
        }
    }

    /// Returns the payload, or `None` when the side refuses.
    fn decrypt(&mut self, side: Side, partition: &str, record: &str) -> TestResult<Option<Vec<u8>>> {
        match side {
            Side::Peer => self.peer.decrypt(partition, record),
            Side::Keyward => {
                let output = self.keyward("decrypt", partition, record.as_bytes())?;
                if output.status.success() {
                    return Ok(Some(output.stdout));
                }
                assert!(output.status.code().is_some(), "{}", complaint("keyward decrypt", &output));
                assert!(output.stdout.is_empty(), "output of a refused decrypt: {:?}", output.stdout);
                assert!(!output.stderr.is_empty(), "a refusal without a reason");
                Ok(None)
            }
        }
    }

    /// Runs the command in a process of its own, so that each call finds keys in the table alone.
    fn keyward(&self, subcommand: &str, partition: &str, input: &[u8]) -> TestResult<Output> {
        let input_file = self.folder.path().join("input");
        fs::write(&input_file, input)?;
        let output = Command::new(env!("CARGO_BIN_EXE_keyward"))
            .arg(subcommand)
            .args(["--partition", partition])
            .args(["--service", SERVICE, "--product", PRODUCT])
            .arg("--store")
            .arg(format!("sqlite:{}", self.database.display()))
            .arg("--kms")
            .arg(format!("static:{MASTER_KEY_HEX}"))
            .current_dir(self.folder.path())
            .stdin(File::open(input_file)?)
            .output()?;
        Ok(output)
    }

    /// The key that a record names is in the table, at the time that the record says.
    fn assert_parent_is_stored(&self, partition: &str, record: &str) -> TestResult {
        let record: Value = serde_json::from_str(record)?;
        let parent = &record["Key"]["ParentKeyMeta"];
        assert_eq!(parent["KeyId"], intermediate_key(partition));
        let rows: i64 = self.table()?.query_row(
            "SELECT count(*) FROM encryption_key WHERE id = ?1 AND created = datetime(?2, 'unixepoch')",
            (intermediate_key(partition), parent["Created"].as_i64()),
            |row| row.get(0),
        )?;
        assert_eq!(rows, 1, "the parent of {record}");
        Ok(())
    }

    /// Every key was made once and is used by both sides; rows of other kinds are the peer's own notes.
    fn assert_one_row_per_key(&self, partitions: &[&str]) -> TestResult {
        let table = self.table()?;
        let mut rows = table.prepare("SELECT id, created FROM encryption_key ORDER BY id")?;
        let rows: Vec<(String, String)> =
            rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        let keys: Vec<&(String, String)> =
            rows.iter().filter(|(id, _)| id.starts_with("_SK_") || id.starts_with("_IK_")).collect();
        let ids: BTreeSet<&str> = keys.iter().map(|(id, _)| id.as_str()).collect();
        let expected: BTreeSet<String> = partitions
            .iter()
            .map(|partition| intermediate_key(partition))
            .chain([format!("_SK_{SERVICE}_{PRODUCT}")])
            .collect();
        assert!(ids.iter().copied().eq(expected.iter().map(String::as_str)), "{rows:?}");
        assert_eq!(keys.len(), ids.len(), "a key was made twice: {rows:?}");
        for (id, created) in keys {
            assert!(is_date_and_time(created), "{id} was created {created:?}");
        }
        for (id, _) in rows.iter().filter(|(id, _)| !expected.contains(id)) {
            assert!(is_note(id), "a row that nobody expects: {id}");
        }
        Ok(())
    }

    fn table(&self) -> TestResult<Connection> {
        Ok(Connection::open(&self.database)?)
    }
}

fn intermediate_key(partition: &str) -> String {
    format!("_IK_{partition}_{SERVICE}_{PRODUCT}")
}

/// `YYYY-MM-DD HH:MM:SS`, which sorts as text in the order of time.
fn is_date_and_time(text: &str) -> bool {
    text.len() == 19
        && text.bytes().zip(*b"0000-00-00 00:00:00").all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            separator => byte == separator,
        })
}

/// Flips a bit of the encrypted payload.
fn with_changed_payload(record: &str) -> TestResult<String> {
    let mut record: Value = serde_json::from_str(record)?;
    let mut data = BASE64.decode(record["Data"].as_str().ok_or("no data in the record")?)?;
    *data.first_mut().ok_or("empty data in the record")? ^= 1;
    record["Data"] = BASE64.encode(data).into();
    Ok(record.to_string())
}

fn complaint(what: &str, output: &Output) -> String {
    format!("{what}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}
