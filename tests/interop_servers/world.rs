//! Who uses a table, and what must hold whoever comes first.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use keyward::kms::{KeyManagementService, StaticKms};
use keyward::stores::Metastore;
use keyward::{Error, SessionFactory};
use serde_json::Value;

use crate::peers::{Kind, MASTER_KEY, PRODUCT, Peer, SERVICE, TestResult, is_note};
use crate::servers::lacks;

/// Those of the vectors, and two more whose characters mean something to a database.
pub(crate) const PARTITIONS: [&str; 12] = [
    "Alice",
    "alice",
    r#"q"uote\back"#,
    "amp&<lt>",
    "ünïcødé-漢",
    "a b",
    "user@example.com",
    "partition",
    "with_underscore",
    "p_svc_prod",
    "o'hara; -- %_?$1",
    r#"{"KeyId": null}"#,
];

/// Which implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Keyward,
    Peer(Kind),
}

pub(crate) const KEYWARD: Side = Side::Keyward;
pub(crate) const GO: Side = Side::Peer(Kind::Go);
pub(crate) const RUST: Side = Side::Peer(Kind::Rust);

/// Who is there, in the order in which they come.
pub(crate) const PAIRS_WITH_GO: [&[Side]; 2] = [&[KEYWARD, GO], &[GO, KEYWARD]];
pub(crate) const PAIRS_WITH_RUST: [&[Side]; 2] = [&[KEYWARD, RUST], &[RUST, KEYWARD]];
pub(crate) const ALL_THREE: [&[Side]; 3] = [&[KEYWARD, GO, RUST], &[GO, RUST, KEYWARD], &[RUST, KEYWARD, GO]];

/// Returns every order in which two or three come together who are here.
pub(crate) fn orders() -> Vec<&'static [Side]> {
    let threes = ALL_THREE.into_iter().filter(|sides| are_here(sides));
    pairs().into_iter().chain(threes).collect()
}

/// Returns every order in which two come together who are here.
pub(crate) fn pairs() -> Vec<&'static [Side]> {
    let pairs = PAIRS_WITH_GO.into_iter().chain(PAIRS_WITH_RUST);
    pairs.filter(|sides| are_here(sides)).collect()
}

/// Whether all of them are here; it is said which is not.
pub(crate) fn are_here(sides: &[Side]) -> bool {
    sides.iter().all(|side| match side {
        Side::Keyward => true,
        Side::Peer(Kind::Go) => !lacks("asherah-go"),
        Side::Peer(Kind::Rust) => !lacks("asherah-rust"),
    })
}

/// Where keys are.
#[async_trait]
pub(crate) trait Table: Send + Sync {
    /// Returns what a peer is told, in the words of its package.
    fn config(&self, peer: Kind) -> Value;

    /// Returns what the process of a peer finds in its environment.
    fn environment(&self) -> &[(&str, &str)];

    async fn store(&self) -> TestResult<Arc<dyn Metastore>>;

    /// Reads ids and times of all rows, as the database tells them.
    async fn rows(&self) -> TestResult<Vec<(String, i64)>>;

    /// Returns what wraps system keys.
    async fn kms(&self) -> TestResult<Arc<dyn KeyManagementService>> {
        Ok(Arc::new(StaticKms::new(MASTER_KEY)?))
    }

    /// Returns what ids end in.
    fn suffix(&self) -> &str {
        ""
    }
}

/// Some implementations on a table.
pub(crate) struct World<'a> {
    table: &'a dyn Table,
    sides: Vec<Side>,
    store: Arc<dyn Metastore>,
    readable: Vec<String>,
    factory: Option<SessionFactory>,
    peers: Vec<(Kind, Peer)>,
}

impl<'a> World<'a> {
    pub(crate) async fn new(table: &'a dyn Table, sides: &[Side]) -> TestResult<Self> {
        let mut peers = Vec::new();
        for &side in sides {
            if let Side::Peer(kind) = side {
                peers.push((kind, Peer::on_server(kind, &table.config(kind), table.environment())?));
            }
        }
        let (sides, store) = (sides.to_vec(), table.store().await?);
        Ok(Self { table, sides, store, readable: Vec::new(), factory: None, peers })
    }

    /// Lets this library read records of another region.
    pub(crate) async fn allow_reading(&mut self, suffix: &str) -> TestResult {
        self.readable.push(suffix.to_owned());
        self.forget().await
    }

    /// All read what each wrote, nobody reads it as another partition, and every key was made once.
    pub(crate) async fn cross(&mut self) -> TestResult {
        let every_byte: Vec<u8> = (0..=u8::MAX).collect();
        for (number, partition) in PARTITIONS.into_iter().enumerate() {
            // What this library knows of the keys is in the table alone.
            self.forget().await?;
            let mut writers = self.sides.clone();
            writers.rotate_left(number % self.sides.len());
            for writer in writers {
                for payload in [&b""[..], b"tea", &every_byte] {
                    let record = self.encrypt(writer, partition, payload).await?;
                    self.assert_all_read(writer, partition, payload, &record).await?;
                }
                let record = self.encrypt(writer, partition, b"not yours").await?;
                self.assert_parent_is_stored(partition, &record).await?;
                for by in [1, PARTITIONS.len() - 1] {
                    for reader in self.sides.clone() {
                        self.assert_refused(reader, PARTITIONS[(number + by) % PARTITIONS.len()], &record).await?;
                    }
                }
            }
        }
        self.assert_one_row_per_key(&[self.table.suffix()]).await
    }

    pub(crate) async fn assert_all_read(
        &mut self,
        writer: Side,
        partition: &str,
        payload: &[u8],
        record: &str,
    ) -> TestResult {
        for reader in self.sides.clone() {
            let read = self.decrypt(reader, partition, record).await?;
            let is_read = read.as_deref() == Some(payload);
            assert!(is_read, "{reader:?} does not read what {writer:?} wrote for {partition}: {record}");
        }
        Ok(())
    }

    pub(crate) async fn assert_refused(&mut self, reader: Side, partition: &str, record: &str) -> TestResult {
        let read = self.decrypt(reader, partition, record).await?;
        assert!(read.is_none(), "{reader:?} reads as {partition}: {record}");
        Ok(())
    }

    pub(crate) async fn encrypt(&mut self, side: Side, partition: &str, payload: &[u8]) -> TestResult<String> {
        match side {
            Side::Peer(kind) => self.peer(kind)?.encrypt(partition, payload),
            Side::Keyward => {
                let session = self.factory().await?.session(partition).await?;
                Ok(String::from_utf8(session.encrypt_json(payload).await?)?)
            }
        }
    }

    /// Returns the payload, or `None` when the side takes the record for one of another partition; a peer does not say why
    /// it refuses.
    pub(crate) async fn decrypt(&mut self, side: Side, partition: &str, record: &str) -> TestResult<Option<Vec<u8>>> {
        match side {
            Side::Peer(kind) => self.peer(kind)?.decrypt(partition, record),
            Side::Keyward => {
                let session = self.factory().await?.session(partition).await?;
                match session.decrypt_json(record.as_bytes()).await {
                    Err(Error::WrongPartition) => Ok(None),
                    read => Ok(Some(read?)),
                }
            }
        }
    }

    fn peer(&mut self, kind: Kind) -> TestResult<&mut Peer> {
        let found = self.peers.iter_mut().find(|(peer, _)| *peer == kind);
        Ok(&mut found.ok_or("this peer was not started")?.1)
    }

    async fn factory(&mut self) -> TestResult<&SessionFactory> {
        if self.factory.is_none() {
            let builder = SessionFactory::builder(SERVICE, PRODUCT)
                .metastore(Arc::clone(&self.store))
                .readable_region_suffixes(self.readable.clone())
                .kms(self.table.kms().await?);
            self.factory = Some(builder.build().await?);
        }
        Ok(self.factory.as_ref().ok_or("it was built")?)
    }

    /// This library forgets all keys.
    async fn forget(&mut self) -> TestResult {
        match self.factory.take() {
            Some(factory) => Ok(factory.close().await?),
            None => Ok(()),
        }
    }

    /// The key that a record names is in the table, at the time that the record says.
    async fn assert_parent_is_stored(&self, partition: &str, record: &str) -> TestResult {
        let record: Value = serde_json::from_str(record)?;
        let parent = &record["Key"]["ParentKeyMeta"];
        let row = (intermediate_key(partition, self.table.suffix()), parent["Created"].as_i64().ok_or("no time")?);
        assert_eq!(parent["KeyId"], row.0);
        let rows = self.table.rows().await?;
        assert!(rows.contains(&row), "{row:?} is not among {rows:?}");
        Ok(())
    }

    /// Every key was made once, with each of these suffixes, and is used by all.
    pub(crate) async fn assert_one_row_per_key(&self, suffixes: &[&str]) -> TestResult {
        let rows = self.table.rows().await?;
        let keys: Vec<_> = rows.iter().filter(|(id, _)| !is_note(id)).collect();
        let ids: BTreeSet<&str> = keys.iter().map(|(id, _)| id.as_str()).collect();
        let mut expected = BTreeSet::new();
        for suffix in suffixes {
            expected.insert(format!("_SK_{SERVICE}_{PRODUCT}{suffix}"));
            expected.extend(PARTITIONS.iter().map(|partition| intermediate_key(partition, suffix)));
        }
        assert!(ids.iter().copied().eq(expected.iter().map(String::as_str)), "{rows:?}");
        assert_eq!(keys.len(), ids.len(), "a key was made twice: {rows:?}");
        Ok(())
    }
}

pub(crate) fn intermediate_key(partition: &str, suffix: &str) -> String {
    format!("_IK_{partition}_{SERVICE}_{PRODUCT}{suffix}")
}

/// Makes a table with `keyward migrate --apply`.
pub(crate) fn migrate(address: &str, environment: &[(&str, &str)]) -> TestResult {
    let output = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(["migrate", "--apply", "--store", address])
        .envs(environment.iter().copied())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("keyward migrate: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}
