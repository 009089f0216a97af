//! Random lives of two processes on one store, by injected clocks: `actions.rs` is what may happen, `model.rs` what the test
//! knows of it, `deeds.rs` how processes go about it, `checks.rs` what must hold.
//!
//! Whatever happens in which order:
//! * every record that was ever returned decrypts to its payload, in every process, until its partition is shredded; so
//!   does what it was re-wrapped into, whose payload is the same to the byte;
//! * no record is made under a key that is expired, or whose system key is;
//! * a revocation made in a process is obeyed by it at once, one made elsewhere within the revoke check interval, and
//!   `max_stale` later at most if the store failed meanwhile; so is the destruction of a partition;
//! * a rotation asked of a process is in effect there at once;
//! * a key is made only when the newest one is of no more use, is about to be, or somebody asked;
//! * a process that keeps a key decrypts with it whatever its store does, and encrypts with it as often as it may;
//! * forged records are refused;
//! * caches keep to their sizes, and a closed factory holds no keys.
//!
//! `KEYWARD_STATE_MACHINE_CASES` sets how many lives there are.

mod actions;
mod checks;
mod deeds;
mod model;
#[path = "../support/mod.rs"]
mod support;

use proptest::prelude::*;
use support::TestResult;

fn cases() -> u32 {
    let cases = std::env::var("KEYWARD_STATE_MACHINE_CASES");
    cases.map_or(64, |cases| cases.parse().expect("KEYWARD_STATE_MACHINE_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_stay_readable_and_invalid_keys_unused(
        setting in actions::setting(),
        steps in proptest::collection::vec(actions::step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let outcome: TestResult = runtime.block_on(async {
            let mut model = model::Model::new(setting).await?;
            for step in steps {
                model.take(step).await?;
            }
            model.finish().await
        });
        prop_assert!(outcome.is_ok(), "{:?}", outcome);
    }
}
