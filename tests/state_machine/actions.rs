//! What can happen, and under which policy.

use std::time::Duration;

use keyward::{CacheScope, CryptoPolicy, EvictionPolicy};
use proptest::prelude::*;
use proptest::sample::select;

use crate::support::{Call, DAY, Fault, HOUR, MINUTE, SECOND};

pub(crate) const PARTITIONS: [&str; 4] = ["alice", "bob", "carol", "dan"];
pub(crate) const PROCESSES: usize = 2;
pub(crate) const EXPIRE: Duration = DAY;
pub(crate) const INTERVAL: Duration = HOUR;

/// More than any life makes of keys: such a cache never evicts.
const ROOMY: usize = 1000;

/// Something that a process does, or that happens to it, about one of the partitions.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) process: usize,
    pub(crate) partition: usize,
    pub(crate) action: Action,
}

#[derive(Debug, Clone)]
pub(crate) enum Action {
    Encrypt {
        json: bool,
    },
    Decrypt {
        record: usize,
    },
    /// Decrypts a record and encrypts another of its partition at once.
    Both {
        record: usize,
        decrypt_first: bool,
    },
    Rewrap {
        record: usize,
    },
    /// Tries a record that was tampered with.
    Forge {
        record: usize,
        forgery: Forgery,
    },
    /// Encrypts and gives up after a few polls.
    Cancel {
        polls: usize,
    },
    /// Revokes the newest key in the store, behind the backs of all processes.
    RevokeElsewhere {
        system: bool,
    },
    /// Revokes a key, counted from the newest one, by a process.
    Revoke {
        system: bool,
        age: usize,
    },
    /// Revokes the newest key by a process while that is finding it.
    RevokeMidway {
        system: bool,
    },
    /// Encrypts, has the key revoked elsewhere, and encrypts again when that can just go unnoticed or just not, and when
    /// it could go unnoticed if calls failed: during the first wait, during the second.
    Overstay {
        system: bool,
        outage: [bool; 2],
        slack: [u32; 2],
    },
    Rotate {
        system: bool,
    },
    Shred,
    Advance {
        seconds: u32,
    },
    Restart {
        closing: bool,
        clock_ahead: Duration,
    },
    /// Encrypts while one call fails.
    FailOnce {
        fault: Fault,
        call: Option<Call>,
    },
    /// From now on calls fail.
    Outage {
        fault: Fault,
        call: Option<Call>,
    },
    EndOutage,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Forgery {
    /// It names a version of its key that there is not.
    NoSuchKey(i64),
    /// It is shown to another partition.
    OtherPartition,
    /// It says that it is of another partition.
    OtherKeyId,
    /// A bit of its key, or of its data, is turned.
    BitOfKey(usize),
    BitOfData(usize),
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    (0..PROCESSES, 0..PARTITIONS.len(), action()).prop_map(|(process, partition, action)| Step {
        process,
        partition,
        action,
    })
}

fn action() -> impl Strategy<Value = Action> {
    let record = any::<usize>;
    let call = || select(vec![None, Some(Call::Store), Some(Call::Load), Some(Call::LoadLatest), Some(Call::Unwrap)]);
    let brief = select(vec![Fault::Transient, Fault::LostReply, Fault::Panic]);
    let lasting = select(vec![Fault::Transient, Fault::Permanent, Fault::LostReply]);
    prop_oneof![
        16 => any::<bool>().prop_map(|json| Action::Encrypt { json }),
        6 => record().prop_map(|record| Action::Decrypt { record }),
        2 => (record(), any::<bool>())
            .prop_map(|(record, decrypt_first)| Action::Both { record, decrypt_first }),
        3 => record().prop_map(|record| Action::Rewrap { record }),
        2 => (record(), forgery()).prop_map(|(record, forgery)| Action::Forge { record, forgery }),
        2 => (0_usize..4).prop_map(|polls| Action::Cancel { polls }),
        3 => any::<bool>().prop_map(|system| Action::RevokeElsewhere { system }),
        3 => (any::<bool>(), 0_usize..3).prop_map(|(system, age)| Action::Revoke { system, age }),
        1 => any::<bool>().prop_map(|system| Action::RevokeMidway { system }),
        2 => (any::<bool>(), any::<[bool; 2]>(), [0_u32..4, 0_u32..4])
            .prop_map(|(system, outage, slack)| Action::Overstay { system, outage, slack }),
        3 => any::<bool>().prop_map(|system| Action::Rotate { system }),
        1 => Just(Action::Shred),
        12 => seconds().prop_map(|seconds| Action::Advance { seconds }),
        2 => (any::<bool>(), clock_ahead())
            .prop_map(|(closing, clock_ahead)| Action::Restart { closing, clock_ahead }),
        2 => (brief, call()).prop_map(|(fault, call)| Action::FailOnce { fault, call }),
        2 => (lasting, call()).prop_map(|(fault, call)| Action::Outage { fault, call }),
        3 => Just(Action::EndOutage),
    ]
}

fn forgery() -> impl Strategy<Value = Forgery> {
    prop_oneof![
        prop_oneof![Just(i64::MIN), Just(-1), Just(0), 1_767_000_000_i64..1_768_000_000, Just(i64::MAX)]
            .prop_map(Forgery::NoSuchKey),
        Just(Forgery::OtherPartition),
        Just(Forgery::OtherKeyId),
        (0_usize..480).prop_map(Forgery::BitOfKey),
        any::<usize>().prop_map(Forgery::BitOfData),
    ]
}

fn seconds() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => 0_u32..5,
        2 => 5_u32..300,
        4 => 300_u32..5000,
        2 => 5000_u32..80_000,
        2 => 80_000_u32..90_000,
        1 => 90_000_u32..100 * 24 * 3600,
    ]
}

/// From clocks that agree to one that is a whole life of keys ahead.
fn clock_ahead() -> impl Strategy<Value = Duration> {
    let cases = vec![Duration::ZERO, 2 * SECOND, 4 * MINUTE, HOUR, EXPIRE + 6 * HOUR];
    prop_oneof![2 => Just(Duration::ZERO), 1 => select(cases)]
}

/// What the two processes are set up with.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    intermediate: CacheSetting,
    system: CacheSetting,
    sessions: CacheSetting,
    scope: CacheScope,
    pub(crate) max_stale: Duration,
    pub(crate) rotate_ahead: Option<Duration>,
    pub(crate) max_wraps: u64,
    pub(crate) clock_ahead: Duration,
}

#[derive(Debug, Clone)]
struct CacheSetting {
    size: Option<usize>,
    eviction: EvictionPolicy,
}

pub(crate) fn setting() -> impl Strategy<Value = Setting> {
    let max_stale = select(vec![Duration::ZERO, 10 * MINUTE]);
    let rotate_ahead = select(vec![None, Some(HOUR)]);
    let max_wraps = prop_oneof![3 => Just(CryptoPolicy::default().max_wraps), 2 => select(vec![1, 2, 3, 5, 17])];
    let scope = prop_oneof![3 => Just(CacheScope::Factory), 1 => Just(CacheScope::Session)];
    (cache(4), cache(3), cache(3), scope, max_stale, rotate_ahead, max_wraps, clock_ahead()).prop_map(
        |(intermediate, system, sessions, scope, max_stale, rotate_ahead, max_wraps, clock_ahead)| Setting {
            intermediate,
            system,
            sessions,
            scope,
            max_stale,
            rotate_ahead,
            max_wraps,
            clock_ahead,
        },
    )
}

fn cache(largest: usize) -> impl Strategy<Value = CacheSetting> {
    let size = prop_oneof![1 => Just(None), 3 => (1..=largest).prop_map(Some), 2 => Just(Some(ROOMY))];
    let eviction = select(vec![
        EvictionPolicy::Lru,
        EvictionPolicy::Lfu,
        EvictionPolicy::Slru,
        EvictionPolicy::TinyLfu,
        EvictionPolicy::S3Fifo,
    ]);
    (size, eviction).prop_map(|(size, eviction)| CacheSetting { size, eviction })
}

impl Setting {
    pub(crate) fn apply(&self, policy: &mut CryptoPolicy) {
        let Self { intermediate, system, sessions, .. } = self;
        policy.expire_after = EXPIRE;
        policy.revoke_check_interval = INTERVAL;
        policy.max_stale = self.max_stale;
        policy.rotate_ahead = self.rotate_ahead;
        policy.max_wraps = self.max_wraps;
        policy.intermediate_key_cache_scope = self.scope;
        policy.cache_intermediate_keys = intermediate.size.is_some();
        policy.intermediate_key_cache_size = intermediate.size.unwrap_or(1);
        policy.intermediate_key_cache_eviction = intermediate.eviction;
        policy.cache_system_keys = system.size.is_some();
        policy.system_key_cache_size = system.size.unwrap_or(1);
        policy.system_key_cache_eviction = system.eviction;
        policy.cache_sessions = sessions.size.is_some();
        policy.session_cache_size = sessions.size.unwrap_or(1);
        policy.session_cache_eviction = sessions.eviction;
    }

    /// Whether a process that has an intermediate key loaded keeps it to its end.
    pub(crate) fn keeps_intermediate_keys(&self) -> bool {
        self.intermediate.size == Some(ROOMY) && self.scope == CacheScope::Factory
    }

    /// How many versions of keys a process keeps at most.
    pub(crate) fn most_keys(&self) -> usize {
        self.intermediate.size.unwrap_or(0) + self.system.size.unwrap_or(0)
    }

    /// After how many wraps a key is replaced at the earliest.
    pub(crate) fn budget(&self) -> u64 {
        if self.rotate_ahead.is_some() { self.max_wraps - self.max_wraps / 16 } else { self.max_wraps }
    }
}
