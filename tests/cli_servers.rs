//! The command on stores that are servers: the table, keys, demonstration, copies between stores, and what goes wrong.

#![cfg(all(feature = "cli", feature = "dynamodb", feature = "mysql", feature = "postgres", feature = "sqlite"))]

mod cli_support;
#[path = "servers/mod.rs"]
mod servers;

use std::process::{Command, Output};

use cli_support::{TestResult, World};
use serde_json::Value;
use servers::{DynamoDb, DynamoDbKind, Fault, MariaDb, MariaDbSetup, Postgres, Proxy};

/// A folder in which the command reaches one store.
struct Stage {
    world: World,
    store: String,
}

impl Stage {
    fn postgres() -> TestResult<Option<Self>> {
        let server = Postgres::shared().map_err(text)?;
        let Some(server) = server else { return Ok(None) };
        Self::new(server.url(&server.database("").map_err(text)?)).map(Some)
    }

    fn mariadb(server: &MariaDb) -> TestResult<Self> {
        Self::new(server.url(&server.database("").map_err(text)?))
    }

    fn dynamodb(options: &str) -> TestResult<Option<Self>> {
        let Some(server) = DynamoDb::shared(DynamoDbKind::Moto).map_err(text)? else { return Ok(None) };
        let (table, endpoint) = (server.table(), server.endpoint());
        Self::new(format!("dynamodb:{table}?region=us-west-2&endpoint={endpoint}{options}")).map(Some)
    }

    fn new(store: String) -> TestResult<Self> {
        Ok(Self { world: World::new()?, store })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.command(arguments);
        command.env("KEYWARD_STORE", &self.store);
        for (name, value) in
            [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_CONFIG_FILE", "none")]
        {
            command.env(name, value);
        }
        command.env("AWS_SHARED_CREDENTIALS_FILE", "none").env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> TestResult<Output> {
        self.world.write("input", input)?;
        let input = std::fs::File::open(self.world.path("input"))?;
        Ok(self.command(arguments).stdin(input).output()?)
    }

    fn says(&self, arguments: &[&str], input: &[u8]) -> TestResult<String> {
        let output = self.run(arguments, input)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} on {}: {complaint}", self.store);
        Ok(String::from_utf8(output.stdout)?)
    }

    fn refused(&self, arguments: &[&str], code: i32) -> TestResult<String> {
        let output = self.run(arguments, b"tea")?;
        let complaint = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(code), "{arguments:?} on {}: {complaint}", self.store);
        Ok(complaint)
    }

    /// The table is made, keys are made, listed, rotated, revoked and shredded.
    fn life(&self) -> TestResult {
        let missing = self.refused(&["encrypt", "--partition", "alice"], 69)?;
        assert!(missing.contains("keyward migrate"), "{missing}");
        assert!(self.says(&["migrate", "--apply"], b"")?.contains("There is a table"), "it is made");
        self.says(&["migrate", "--apply"], b"")?;
        let record = self.says(&["encrypt", "--partition", "alice"], b"tea")?;
        assert_eq!(self.says(&["decrypt", "--partition", "alice"], record.as_bytes())?, "tea");
        let before = self.keys("alice")?;
        assert_eq!(before.len(), 1, "{before:?}");
        self.says(&["keys", "rotate", "--partition", "alice", "--execute"], b"")?;
        let keys = self.keys("alice")?;
        assert_eq!(keys.len(), 2, "{keys:?}");
        let (id, created) = (&keys[1]["id"], &keys[1]["created"]);
        let (id, created) = (id.as_str().ok_or("an id is text")?, created.to_string());
        self.says(&["keys", "revoke", "--id", id, "--created", &created, "--execute"], b"")?;
        assert_eq!(self.keys("alice")?[1]["state"], "revoked");
        assert_eq!(self.says(&["decrypt", "--partition", "alice"], record.as_bytes())?, "tea");
        self.says(&["keys", "shred", "--partition", "alice", "--execute", "--confirm", "alice"], b"")?;
        self.refused(&["encrypt", "--partition", "alice"], 65)?;
        let gone = self.run(&["decrypt", "--partition", "alice"], record.as_bytes())?;
        assert_eq!(gone.status.code(), Some(65));
        Ok(())
    }

    /// The keys of a partition, by age.
    fn keys(&self, partition: &str) -> TestResult<Vec<Value>> {
        let listed = self.says(&["keys", "list", "--partition", partition, "--json"], b"")?;
        let Value::Array(mut keys) = serde_json::from_str(&listed)? else { return Err("not a list".into()) };
        keys.sort_by_key(|key| key["created"].as_i64());
        Ok(keys)
    }

    fn demo(&self) -> TestResult {
        let story = self.says(&["demo", "--store", &self.store], b"")?;
        assert!(story.contains("refused: the record belongs to another partition"), "{story}");
        assert!(story.contains("Its keys stay in the store"), "{story}");
        Ok(())
    }
}

fn text(error: Box<dyn std::error::Error + Send + Sync>) -> Box<dyn std::error::Error> {
    error
}

#[test]
fn keys_live_in_postgres() -> TestResult {
    let Some(stage) = Stage::postgres()? else { return Ok(()) };
    stage.life()?;
    stage.demo()
}

#[test]
fn keys_live_in_mariadb_and_move_on_to_dynamodb() -> TestResult {
    let Some(server) = MariaDb::start(&MariaDbSetup::default()).map_err(text)? else { return Ok(()) };
    let stage = Stage::mariadb(&server)?;
    stage.life()?;
    stage.demo()?;
    let record = stage.says(&["encrypt", "--partition", "bob"], b"ale")?;
    let Some(other) = Stage::dynamodb("")? else { return Ok(()) };
    other.says(&["migrate", "--apply"], b"")?;
    let copied = stage.says(&["keys", "copy", "--from", &stage.store, "--to", &other.store, "--execute"], b"")?;
    assert!(copied.contains("byte for byte"), "{copied}");
    let there = Stage { world: stage.world, store: other.store };
    assert_eq!(there.says(&["decrypt", "--partition", "bob"], record.as_bytes())?, "ale");
    there.refused(&["encrypt", "--partition", "alice"], 65)?; // shredded there too
    Ok(())
}

#[test]
fn keys_live_in_dynamodb_with_a_suffix_and_from_before_it() -> TestResult {
    let Some(before) = Stage::dynamodb("")? else { return Ok(()) };
    before.says(&["migrate", "--apply"], b"")?;
    let old = before.says(&["encrypt", "--partition", "alice"], b"old")?;
    let stage = Stage { store: format!("{}&suffix=true", before.store), world: before.world };
    let new = stage.says(&["encrypt", "--partition", "alice"], b"new")?;
    assert!(new.contains("_us-west-2"), "{new}");
    assert_eq!(stage.says(&["decrypt", "--partition", "alice"], old.as_bytes())?, "old");
    assert_eq!(stage.keys("alice")?.len(), 2, "with the suffix and without");
    // Another region, or a store without suffixes, reads them once the suffix is named.
    let bare = stage.store.trim_end_matches("&suffix=true").to_owned();
    let foreign = Stage { store: bare, world: stage.world };
    assert_eq!(foreign.run(&["decrypt", "--partition", "alice"], new.as_bytes())?.status.code(), Some(65));
    let named = ["decrypt", "--partition", "alice", "--readable-suffixes", "us-west-2"];
    assert_eq!(foreign.says(&named, new.as_bytes())?, "new");
    let stage = Stage { store: format!("{}&suffix=true", foreign.store), world: foreign.world };
    let rotated = stage.says(&["keys", "rotate", "--partition", "alice", "--execute"], b"")?;
    assert_eq!(rotated.matches("_us-west-2 created").count(), 2, "{rotated}");
    stage.says(
        &["keys", "shred", "--partition", "alice", "--execute", "--confirm", "alice", "--receipt", "r.json"],
        b"",
    )?;
    let receipt: Value = serde_json::from_slice(&stage.world.read("r.json")?)?;
    assert_eq!(receipt["destroyed"].as_array().map(Vec::len), Some(3), "{receipt}");
    for record in [&old, &new] {
        assert_eq!(stage.run(&["decrypt", "--partition", "alice"], record.as_bytes())?.status.code(), Some(65));
    }
    stage.demo()
}

#[test]
fn a_server_that_says_nothing_ends_no_command_in_a_hang() -> TestResult {
    let Some(server) = Postgres::shared().map_err(text)? else { return Ok(()) };
    let proxy = Proxy::start(server.port).map_err(text)?;
    proxy.set(Fault::HalfOpen);
    let stage = Stage::new(format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port()))?;
    let complaint = stage.refused(&["keys", "list"], 75)?;
    assert!(complaint.contains(&format!("127.0.0.1:{}", proxy.port())), "{complaint}");
    // A silent host is passed over.
    let database = server.database("").map_err(text)?;
    let both = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{database}", proxy.port(), server.port);
    assert!(Stage::new(both)?.says(&["migrate", "--apply"], b"")?.contains("There is a table"));
    Ok(())
}

#[test]
fn a_replica_that_is_away_is_told_and_stops_nothing() -> TestResult {
    let Some(stage) = Stage::postgres()? else { return Ok(()) };
    stage.says(&["migrate", "--apply"], b"")?;
    let replica = ["--read-replica", "postgres://postgres@127.0.0.1:1/keys"];
    let output = stage.run(&[&["encrypt", "--partition", "alice"][..], &replica].concat(), b"tea")?;
    let complaint = String::from_utf8(output.stderr)?;
    assert!(output.status.success() && complaint.contains("without the read replica"), "{complaint}");
    Ok(())
}
