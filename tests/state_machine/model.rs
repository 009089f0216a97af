//! What the test knows that the processes may not, and how it lets things happen.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use keyward::{Clock, DataRowRecord, Error, KeyMeta, Keys, Session, SessionFactory};

use crate::actions::{Action, INTERVAL, PARTITIONS, PROCESSES, Setting, Step};
use crate::support::{Call, Fault, SECOND, TestResult, World, eventually, poll_and_drop};

/// How often something is asked of both threads of a process to let others have their turn.
const TURNS: usize = 6;

pub(crate) struct Model {
    pub(crate) world: World,
    pub(crate) setting: Setting,
    pub(crate) processes: Vec<Process>,
    pub(crate) records: Vec<Kept>,
    /// When keys were revoked and partitions destroyed, in milliseconds by the world's clock.
    pub(crate) revoked: HashMap<KeyMeta, i64>,
    pub(crate) shredded: HashMap<usize, i64>,
    /// Whether calls fail now, and when one may have failed last.
    pub(crate) failing: bool,
    pub(crate) failed: Option<i64>,
    /// How often something was done that may leave a key behind that nobody needs.
    pub(crate) cancelled: usize,
    pub(crate) rotations: usize,
    /// How many records named keys that there may not be.
    pub(crate) strangers: usize,
    /// The furthest that any clock was ever ahead, in milliseconds.
    pub(crate) furthest_ahead: i64,
}

/// A record that must stay readable.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) partition: usize,
    pub(crate) record: DataRowRecord,
    pub(crate) payload: Vec<u8>,
}

/// A process, and what it cannot but know.
pub(crate) struct Process {
    pub(crate) factory: SessionFactory,
    /// In milliseconds.
    pub(crate) clock_ahead: i64,
    /// Revoked by it, or before it began.
    pub(crate) obeys: HashSet<KeyMeta>,
    /// Destroyed by it, or before it began.
    pub(crate) buried: HashSet<usize>,
    /// Intermediate keys that it has used, and how many wraps each has made.
    pub(crate) used: HashMap<KeyMeta, u64>,
    /// When it was shown records that may name these keys before they are made.
    pub(crate) absent: HashMap<KeyMeta, i64>,
    /// What it was asked to make, by partition: older keys are out of use.
    pub(crate) rotated: HashMap<usize, i64>,
}

impl Model {
    pub(crate) async fn new(setting: Setting) -> TestResult<Self> {
        let world = World::with_policy(|policy| setting.apply(policy)).await?;
        let mut model = Self {
            world,
            processes: Vec::new(),
            records: Vec::new(),
            revoked: HashMap::new(),
            shredded: HashMap::new(),
            failing: false,
            failed: None,
            cancelled: 0,
            rotations: 0,
            strangers: 0,
            furthest_ahead: 0,
            setting,
        };
        for number in 0..PROCESSES {
            let clock_ahead = if number == 0 { std::time::Duration::ZERO } else { model.setting.clock_ahead };
            let process = model.start(clock_ahead).await?;
            model.processes.push(process);
        }
        Ok(model)
    }

    async fn start(&mut self, clock_ahead: std::time::Duration) -> TestResult<Process> {
        let factory = self.world.another_with(|setup| setup.clock_ahead = clock_ahead).await?;
        let clock_ahead = i64::try_from(clock_ahead.as_millis())?;
        self.furthest_ahead = self.furthest_ahead.max(clock_ahead);
        Ok(Process {
            factory,
            clock_ahead,
            obeys: self.revoked.keys().cloned().collect(),
            buried: self.shredded.keys().copied().collect(),
            used: HashMap::new(),
            absent: HashMap::new(),
            rotated: HashMap::new(),
        })
    }

    pub(crate) async fn take(&mut self, Step { process, partition, action }: Step) -> TestResult {
        self.act(process, partition, action).await?;
        for process in &self.processes {
            let most = self.setting.most_keys();
            eventually("caches keep to their sizes", || process.factory.status().cached_keys <= most).await;
        }
        Ok(())
    }

    async fn act(&mut self, process: usize, partition: usize, action: Action) -> TestResult {
        let (system_key, intermediate_key) = (self.world.system_key(), self.intermediate_key(partition));
        let id_of = |system| if system { &system_key } else { &intermediate_key };
        match action {
            Action::Encrypt { json } => self.encrypt(process, partition, json).await?,
            Action::Decrypt { record } => {
                if let Some(kept) = self.pick(record) {
                    self.decrypt(process, &kept).await?;
                }
            }
            Action::Both { record, decrypt_first } => {
                if let Some(kept) = self.pick(record) {
                    self.both(process, &kept, decrypt_first).await?;
                }
            }
            Action::Rewrap { record } => {
                if let Some(kept) = self.pick(record) {
                    self.rewrap(process, kept).await?;
                }
            }
            Action::Forge { record, forgery } => {
                if let Some(kept) = self.pick(record) {
                    self.forge(process, partition, kept, forgery).await?;
                }
            }
            Action::Cancel { polls } => {
                let session = self.session(process, partition).await?;
                self.cancelled += 1;
                if let Some(outcome) = poll_and_drop(session.encrypt(b"hasty"), polls) {
                    self.note_encrypted(process, partition, b"hasty", outcome)?;
                }
            }
            Action::RevokeElsewhere { system } => self.revoke_elsewhere(id_of(system)),
            Action::Revoke { system, age } => {
                self.revoke(process, id_of(system), age).await?;
                self.encrypt(process, partition, false).await?;
            }
            Action::RevokeMidway { system } => self.revoke_midway(process, partition, id_of(system)).await?,
            Action::Overstay { system, outage, slack } => {
                self.encrypt(process, partition, false).await?;
                self.revoke_elsewhere(id_of(system));
                for (number, longest) in [INTERVAL, self.setting.max_stale].into_iter().enumerate() {
                    self.end_outage();
                    if outage[number] {
                        self.begin_outage(Fault::Transient, None);
                    }
                    self.settle().await?;
                    self.world.advance(longest.saturating_sub(SECOND) + slack[number] * SECOND);
                    self.encrypt(process, partition, false).await?;
                }
                self.end_outage();
            }
            Action::Rotate { system } => self.rotate(process, partition, system).await?,
            Action::Shred => self.shred(process, partition).await?,
            Action::Advance { seconds } => {
                self.settle().await?;
                self.world.advance(seconds * SECOND);
            }
            Action::Restart { closing, clock_ahead } => {
                let next = self.start(clock_ahead).await?;
                let last = std::mem::replace(&mut self.processes[process], next);
                if closing {
                    close(&last.factory).await?;
                }
            }
            Action::FailOnce { fault, call } => {
                let was_failing = std::mem::replace(&mut self.failing, true);
                self.world.store.control.fail(1, call, None, fault);
                self.encrypt(process, partition, false).await?;
                if !was_failing {
                    self.end_outage();
                }
            }
            Action::Outage { fault, call } => self.begin_outage(fault, call),
            Action::EndOutage => self.end_outage(),
        }
        Ok(())
    }

    fn begin_outage(&mut self, fault: Fault, call: Option<Call>) {
        self.end_outage();
        self.world.store.control.fail(usize::MAX, call, None, fault);
        self.failing = true;
    }

    fn end_outage(&mut self) {
        if self.failing {
            self.failed = Some(self.now());
        }
        self.failing = false;
        self.world.store.control.heal();
    }

    /// Lets what is under way in the background end, so that it does not span a long time: all threads of all processes have
    /// more turns than the longest load needs.
    pub(crate) async fn settle(&self) -> TestResult {
        for process in 0..self.processes.len() {
            for _ in 0..TURNS {
                self.keys(process).shred("nobody").await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn finish(mut self) -> TestResult {
        self.end_outage();
        self.settle().await?;
        self.check_rows();
        let fresh = self.start(std::time::Duration::ZERO).await?;
        self.processes.push(fresh);
        for process in 0..self.processes.len() {
            for kept in self.records.clone() {
                self.decrypt(process, &kept).await?;
                let session = self.session(process, kept.partition).await?;
                let outcome = self.attempt(async || session.decrypt_json(&kept.record.to_json()).await).await;
                self.note_decrypted(process, &kept, outcome)?;
            }
            let factory = &self.processes[process].factory;
            let kept = || factory.status().live_keys <= factory.status().cached_keys;
            eventually("keys that are not cached are released", kept).await;
            close(factory).await?;
        }
        Ok(())
    }

    pub(crate) fn pick(&self, number: usize) -> Option<Kept> {
        self.records.get(number.checked_rem(self.records.len())?).cloned()
    }

    pub(crate) async fn session(&self, process: usize, partition: usize) -> Result<Session, Error> {
        self.processes[process].factory.session(PARTITIONS[partition]).await
    }

    pub(crate) fn keys(&self, process: usize) -> Keys {
        self.processes[process].factory.keys(Arc::clone(&self.world.store))
    }

    pub(crate) fn intermediate_key(&self, partition: usize) -> String {
        self.world.intermediate_key(PARTITIONS[partition])
    }

    pub(crate) fn now(&self) -> i64 {
        let since = self.world.clock.now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        i64::try_from(since.as_millis()).expect("this century")
    }
}

async fn close(factory: &SessionFactory) -> TestResult {
    factory.close().await?;
    // What was cancelled may hold its key for a moment longer.
    eventually("no key is left", || factory.status().live_keys == 0).await;
    Ok(())
}
