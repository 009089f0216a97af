//! What is measured: every name in the table of docs/metrics.md and no other, and what a scrape shows of a busy factory.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use keyward::kms::StaticKms;
use keyward::stores::InMemoryMetastore;
use keyward::{Error, SessionFactory};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::PrometheusBuilder;
use support::{Call, DAY, Fault, HOUR, SECOND, TestResult, World, eventually};

/// Notes what is registered, with labels, and what is described.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    registered: BTreeMap<String, (&'static str, BTreeSet<String>)>,
    described: BTreeMap<String, String>,
}

impl Notes {
    fn register(&self, kind: &'static str, key: &Key) {
        let mut noted = self.0.lock().expect("no holder panics");
        let (_, labels) = noted.registered.entry(key.name().to_owned()).or_insert_with(|| (kind, BTreeSet::new()));
        labels.extend(key.labels().map(|label| label.key().to_owned()));
    }

    fn describe(&self, name: &KeyName, text: &SharedString) {
        self.0.lock().expect("no holder panics").described.insert(name.as_str().to_owned(), text.to_string());
    }
}

impl Recorder for Notes {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe(&name, &text);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.describe(&name, &text);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        assert_eq!(unit, Some(Unit::Seconds), "{}", name.as_str());
        self.describe(&name, &text);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.register("counter", key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.register("gauge", key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.register("histogram", key);
        Histogram::noop()
    }
}

/// The table of the document: name, kind and labels.
fn table() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = include_str!("../docs/metrics.md").lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`').replace("{store}", "memory").replace("{kms}", "static");
        let labels = cells[3].split(", ").map(|label| label.trim_matches('`').to_owned());
        (name, (cells[2].to_owned(), labels.filter(|label| !label.is_empty()).collect()))
    })
    .collect()
}

/// Builds and closes a factory while a recorder that takes notes is in place on this thread and on those of the factory.
fn notes_of_a_factory() -> TestResult<Notes> {
    let notes = Notes::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    metrics::with_local_recorder(&notes, || {
        runtime.block_on(async {
            let factory = SessionFactory::builder("svc", "prod")
                .metastore(InMemoryMetastore::new())
                .kms(StaticKms::new(support::MASTER_KEY)?)
                .build()
                .await?;
            factory.status().memory.publish();
            factory.close().await?;
            TestResult::Ok(())
        })
    })?;
    Ok(notes)
}

/// The recorder of the process, and a world that is measured by it.
async fn measured() -> TestResult<(metrics_exporter_prometheus::PrometheusHandle, World)> {
    let recorder = PrometheusBuilder::new().install_recorder()?;
    let world = World::with_policy(|policy| {
        policy.intermediate_key_cache_size = 2;
        policy.cache_sessions = true;
        // So few that each wrap is counted.
        policy.max_wraps = 4000;
    })
    .await?;
    Ok((recorder, world))
}

#[test]
fn the_table_names_what_is_registered_and_nothing_else() -> TestResult {
    let notes = notes_of_a_factory()?;
    let noted = notes.0.lock().unwrap();
    let registered: BTreeMap<String, (String, BTreeSet<String>)> = noted
        .registered
        .iter()
        .map(|(name, (kind, labels))| (name.clone(), ((*kind).to_owned(), labels.clone())))
        .collect();
    let mut table = table();
    // Mailboxes are on threads that know no recorder but that of the process; the scrape below shows them.
    assert!(table.remove("keyward_mailbox_pending").is_some());
    assert_eq!(registered, table);
    let undescribed: Vec<_> = registered.keys().filter(|name| !noted.described.contains_key(*name)).collect();
    assert!(undescribed.is_empty(), "{undescribed:?}");
    Ok(())
}

#[test]
fn a_scrape_tells_what_a_busy_factory_does() -> TestResult {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (recorder, world) = measured().await?;
        let number = |line: &str| -> f64 {
            let scrape = recorder.render();
            let found = scrape.lines().find_map(|known| known.strip_prefix(line)?.trim().parse().ok());
            found.unwrap_or_else(|| panic!("no {line} in {scrape}"))
        };
        let record = world.encrypt("alice", b"tea").await?;
        for partition in ["bob", "carol"] {
            world.encrypt(partition, b"tea").await?;
        }
        assert!(matches!(world.decrypt("bob", &record).await, Err(Error::WrongPartition)));
        for _ in 0..200 {
            world.advance(SECOND);
            assert_eq!(world.decrypt("alice", &record).await?, b"tea");
        }
        assert!((201.0..=202.0).contains(&number("ael_drr_decrypt_seconds_count")), "{}", recorder.render());
        assert!(number("keyward_cache_hits_total{cache=\"intermediate_keys\"}") >= 199.0);
        assert_eq!(number("keyward_errors_total{class=\"wrong_partition\"}"), 1.0);
        assert_eq!(number("keyward_rotations_total{kind=\"intermediate\",cause=\"first\"}"), 3.0);
        assert_eq!(number("keyward_rotations_total{kind=\"system\",cause=\"first\"}"), 1.0);
        assert!(number("keyward_cache_evictions_total{cache=\"intermediate_keys\"}") >= 1.0);
        assert_eq!(number("keyward_cache_entries{cache=\"intermediate_keys\"}"), 2.0);
        assert_eq!(number("keyward_sessions_open"), 3.0);
        assert_eq!(number("ael_metastore_custom_store_seconds_count"), 4.0);
        assert_eq!(number("ael_kms_custom_encryptkey_seconds_count"), 1.0);
        for actor in ["guard", "key_cache", "kms_client", "metastore_writer", "session_registry", "system"] {
            assert_eq!(number(&format!("keyward_mailbox_pending{{actor=\"{actor}\"}}")), 0.0, "{actor}");
        }

        world.encrypt("alice", b"tea").await?;
        world.advance(HOUR + SECOND);
        world.store.control.fail(usize::MAX, Some(Call::LoadLatest), None, Fault::Transient);
        world.encrypt("alice", b"tea").await?;
        assert_eq!(number("keyward_stale_served_total"), 1.0);
        assert_eq!(number("keyward_refresh_failures_total"), 1.0);
        eventually("the ages are published", || {
            number("keyward_key_check_age_seconds{kind=\"intermediate\"}") > 3600.0
        })
        .await;
        assert!(number("keyward_key_age_seconds{kind=\"system\"}") > 3600.0);
        assert!(number("keyward_key_wraps{kind=\"intermediate\"}") >= 1.0);
        assert_eq!(number("keyward_key_versions{kind=\"intermediate\"}"), 2.0);
        assert_eq!(number("keyward_loads_in_flight"), 0.0);
        world.store.control.heal();
        world.advance(91 * DAY);
        world.encrypt("alice", b"tea").await?;
        assert_eq!(number("keyward_rotations_total{kind=\"intermediate\",cause=\"expired\"}"), 1.0);
        let scrape = recorder.render();
        for secret in ["alice", "bob", "carol", "_IK_"] {
            assert!(!scrape.contains(secret), "{scrape}");
        }
        world.close().await?;
        assert_eq!(number("keyward_sessions_open"), 0.0);
        assert_eq!(number("keyward_cache_entries{cache=\"intermediate_keys\"}"), 0.0);
        Ok(())
    })
}
