//! The names of what is measured, and their descriptions; whoever records uses these.

use metrics::{Unit, describe_counter, describe_gauge};

/// Names of numbers about secret memory.
pub(crate) mod secret {
    pub(crate) const ALLOCATED: &str = "secret_allocated_total";
    pub(crate) const IN_USE: &str = "secret_in_use";
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

/// Tells the recorder what the names mean.
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
}
