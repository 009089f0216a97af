//! The names of what is measured, and their descriptions; whoever records uses these.

use metrics::{Gauge, Unit, describe_counter, describe_gauge, describe_histogram, gauge};

/// Names of numbers about secret memory. The first two are Asherah's.
pub(crate) mod secret {
    pub(crate) const ALLOCATED: &str = "secret_allocated";
    pub(crate) const IN_USE: &str = "secret_inuse";
    pub(crate) const LOCKED_BYTES: &str = "secret_locked_bytes";
    pub(crate) const HOT: &str = "secret_hot";
    pub(crate) const COLD: &str = "secret_cold";
    pub(crate) const DEMOTIONS: &str = "secret_demotions_total";
    pub(crate) const EXHAUSTED: &str = "secret_exhausted_total";
    pub(crate) const FORCED_WIPES: &str = "secret_forced_wipes_total";
    pub(crate) const EXCHANGES: &str = "secret_sealing_key_exchanges_total";
    pub(crate) const CANARY_FAILURES: &str = "secret_canary_failures_total";
    pub(crate) const DEGRADED: &str = "secret_degraded";
}

/// Names of numbers about operations and keys. The first two are Asherah's.
pub(super) mod keys {
    pub(in super::super) const ENCRYPT: &str = "ael_drr_encrypt_seconds";
    pub(in super::super) const DECRYPT: &str = "ael_drr_decrypt_seconds";
    pub(in super::super) const HITS: &str = "keyward_cache_hits_total";
    pub(in super::super) const MISSES: &str = "keyward_cache_misses_total";
    pub(in super::super) const EVICTIONS: &str = "keyward_cache_evictions_total";
    pub(in super::super) const ENTRIES: &str = "keyward_cache_entries";
    pub(in super::super) const STALE: &str = "keyward_stale_served_total";
    pub(in super::super) const LOADS: &str = "keyward_loads_in_flight";
    pub(in super::super) const REFRESH_FAILURES: &str = "keyward_refresh_failures_total";
    pub(in super::super) const AGE: &str = "keyward_key_age_seconds";
    pub(in super::super) const CHECK_AGE: &str = "keyward_key_check_age_seconds";
    pub(in super::super) const VERSIONS: &str = "keyward_key_versions";
    pub(in super::super) const WRAPS: &str = "keyward_key_wraps";
    pub(in super::super) const ROTATIONS: &str = "keyward_rotations_total";
    pub(in super::super) const SKEWED: &str = "keyward_keys_dated_ahead";
    pub(in super::super) const SESSIONS: &str = "keyward_sessions_open";
    pub(in super::super) const ERRORS: &str = "keyward_errors_total";
    pub(in super::super) const MAILBOX: &str = "keyward_mailbox_pending";
    pub(in super::super) const STORE_RETRIES: &str = "keyward_metastore_retries_total";
    pub(in super::super) const STORE_FAILURES: &str = "keyward_metastore_failures_total";
    pub(in super::super) const LOST_REPLIES: &str = "keyward_metastore_lost_replies_total";
    pub(in super::super) const BREAKER_OPEN: &str = "keyward_metastore_breaker_open";
    pub(in super::super) const KMS_FAILURES: &str = "keyward_kms_failures_total";
    pub(in super::super) const KMS_DOWN: &str = "keyward_kms_down";
    pub(in super::super) const KMS_MISSED: &str = "keyward_kms_missed_wraps_total";
    pub(in super::super) const AUDIT_DROPPED: &str = "keyward_audit_dropped_total";
}

/// Returns the gauge of messages that an actor was sent and has not answered.
pub(crate) fn mailbox_pending(actor: &str) -> Gauge {
    gauge!(keys::MAILBOX, "actor" => actor.replace(' ', "_").to_lowercase())
}

/// Tells the recorder what the names mean; what a store or key management service is called is part of some.
pub(crate) fn describe() {
    describe_counter!(secret::ALLOCATED, "Keys that were made or loaded");
    describe_gauge!(secret::IN_USE, "Slots of secret memory that are in use");
    describe_gauge!(secret::LOCKED_BYTES, Unit::Bytes, "Bytes of secret memory that are locked");
    describe_gauge!(secret::HOT, "Keys in memory that are ready for use");
    describe_gauge!(secret::COLD, "Keys in memory that are sealed");
    describe_counter!(secret::DEMOTIONS, "Keys that gave their slot to another");
    describe_counter!(secret::EXHAUSTED, "Uses refused because all scratch slots were taken");
    describe_counter!(secret::FORCED_WIPES, "Uses whose key was wiped before they ended");
    describe_counter!(secret::EXCHANGES, "Times that all sealed keys were sealed under a new key");
    describe_counter!(secret::CANARY_FAILURES, "Slots of secret memory found written over");
    describe_gauge!(secret::DEGRADED, "1 when secret memory lacks a protection that the strict policy asks for");

    describe_histogram!(keys::ENCRYPT, Unit::Seconds, "Time to encrypt a payload, sampled and weighted");
    describe_histogram!(keys::DECRYPT, Unit::Seconds, "Time to decrypt a record, sampled and weighted");
    describe_counter!(keys::HITS, "Look-ups that a cache answered");
    describe_counter!(keys::MISSES, "Look-ups that a cache did not answer");
    describe_counter!(keys::EVICTIONS, "Entries that left a full cache");
    describe_gauge!(keys::ENTRIES, "Entries of a cache");
    describe_counter!(keys::STALE, "Encrypts under a key whose check is overdue because it fails");
    describe_gauge!(keys::LOADS, "Keys that are being loaded or made");
    describe_counter!(keys::REFRESH_FAILURES, "Checks of a cached key that failed");
    describe_gauge!(keys::AGE, Unit::Seconds, "Age of the oldest key that encrypts");
    describe_gauge!(
        keys::CHECK_AGE,
        Unit::Seconds,
        "Time since the least recently checked key that encrypts was checked"
    );
    describe_gauge!(keys::VERSIONS, "Cached versions of keys, those that only decrypt included");
    describe_gauge!(keys::WRAPS, "Keys that the busiest key has encrypted, about");
    describe_counter!(keys::ROTATIONS, "Keys that were made, by cause");
    describe_gauge!(keys::SKEWED, "Cached keys that are dated further in the future than clocks may differ");
    describe_gauge!(keys::SESSIONS, "Sessions that exist, kept ones included");
    describe_counter!(keys::ERRORS, "Operations of sessions that failed, by class");
    describe_gauge!(keys::MAILBOX, "Messages that an actor was sent and has not answered");
    describe_counter!(keys::STORE_RETRIES, "Calls to a metastore that were repeated");
    describe_counter!(keys::STORE_FAILURES, "Attempts at calls to a metastore that failed, by class");
    describe_counter!(keys::LOST_REPLIES, "Inserts whose reply was lost, so that it was looked what became of them");
    describe_gauge!(keys::BREAKER_OPEN, "1 while a metastore is not asked because it kept failing");
    describe_counter!(keys::KMS_FAILURES, "Calls to a place that keeps the master key that failed, by class");
    describe_gauge!(keys::KMS_DOWN, "1 while a place that keeps the master key does not answer");
    describe_counter!(keys::KMS_MISSED, "System keys that are stored and that this place cannot open");
    describe_counter!(keys::AUDIT_DROPPED, "Audit events that were dropped because the queue was full");
}
