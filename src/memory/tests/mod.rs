use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::arena::Arena;
use super::state::SlotBytes;
use super::{ArenaSettings, LockedKey, MemoryError, OnDamage, Vault};
use crate::error::{Error, RandomError};

mod buffers;
mod damage;
mod sealing;
mod secrets;
mod slot;
mod streams;
mod wiping;

const NO_TIME: Duration = Duration::ZERO;

fn settings(slots: usize) -> ArenaSettings {
    let bytes = (slots + 4 + 1) * size_of::<SlotBytes>();
    ArenaSettings { bytes, scratch_slots: 4, on_damage: OnDamage::Error, ..ArenaSettings::default() }
}

fn arena(slots: usize) -> Arc<Arena> {
    Arc::new(Arena::map(&settings(slots)).unwrap())
}

fn vault(arena: &Arc<Arena>) -> Vault {
    let random = Arc::new(|bytes: &mut [u8]| aws_lc_rs::rand::fill(bytes).map_err(|_| RandomError));
    Vault::open_in(Arc::clone(arena), random).unwrap()
}

fn key(vault: &Vault, bytes: [u8; 32]) -> Arc<LockedKey> {
    let copy = |key: &mut [u8; 32]| {
        *key = bytes;
        Ok::<_, Error>(())
    };
    vault.reserve().unwrap().fill(b"label", copy).unwrap()
}

/// A wrap under `key` is the test that it is the key that it should be.
fn fingerprint(key: &LockedKey) -> Result<[u8; 60], MemoryError> {
    key.using(|state| state.wrap(&[9; 32], &[1; 12], b""))
}

#[test]
fn more_keys_than_slots_work_and_keep_their_identity() {
    let arena = arena(16);
    let vault = vault(&arena);
    let keys: Vec<_> = (0..100).map(|i| key(&vault, [i; 32])).collect();
    let first: Vec<_> = keys.iter().map(|key| fingerprint(key).unwrap()).collect();
    for _ in 0..3 {
        for (key, expected) in keys.iter().zip(&first) {
            assert_eq!(fingerprint(key).unwrap(), *expected);
            if key.take_used_cold() {
                vault.promote(key).unwrap();
                assert!(key.is_resident());
                assert_eq!(fingerprint(key).unwrap(), *expected);
            }
        }
    }
    assert_eq!(vault.live(), 100);
    assert!(arena.status().slots_in_use <= arena.status().slots);
    drop(keys);
    assert_eq!((vault.live(), arena.status().slots_in_use), (0, 1), "only the sealing key is left");
}

#[test]
fn keys_in_use_outlive_their_demotion_and_are_wiped_with_the_last_holder() {
    let arena = arena(16);
    let vault = vault(&arena);
    let held = key(&vault, [1; 32]);
    let before = fingerprint(&held).unwrap();
    let nested = held.using(|state| {
        let crowd: Vec<_> = (0..64).map(|i| key(&vault, [i; 32])).collect();
        drop(crowd);
        state.wrap(&[9; 32], &[1; 12], b"")
    });
    assert_eq!(nested.unwrap(), before, "a pinned key is never demoted");
}

#[test]
fn closing_wipes_everything_and_every_later_use_is_an_error() {
    let arena = arena(16);
    let (closing, other) = (vault(&arena), vault(&arena));
    let keys: Vec<_> = (0..40).map(|i| key(&closing, [i; 32])).collect();
    let survivor = key(&other, [7; 32]);
    let report = closing.close_now(NO_TIME);
    assert!(report.wiped >= 2 && report.forced == 0, "{report:?}");
    for key in &keys {
        assert!(matches!(fingerprint(key), Err(MemoryError::Closed)));
        assert!(matches!(key.with_bytes(|_| ()), Err(MemoryError::Closed)));
    }
    assert!(matches!(closing.reserve(), Err(MemoryError::Closed)));
    assert!(fingerprint(&survivor).is_ok(), "another vault is not touched");
    assert_eq!(closing.close_now(NO_TIME).wiped, 0, "closing again does nothing");
    drop((keys, survivor));
    assert_eq!((closing.live(), other.live(), arena.status().slots_in_use), (0, 0, 1));
}

#[test]
fn a_wipe_in_the_middle_of_an_operation_discards_its_output() {
    let arena = arena(16);
    let vault = vault(&arena);
    let key = key(&vault, [1; 32]);
    let result = key.using(|state| {
        let report = vault.close_now(NO_TIME);
        assert_eq!(report.forced, 1);
        state.wrap(&[9; 32], &[1; 12], b"")
    });
    assert!(matches!(result, Err(MemoryError::Closed)), "computed with zeroes, so never published");
    assert_eq!(arena.status().forced_wipes, 1);
}

#[test]
fn a_close_in_the_middle_discards_what_a_cold_key_made() {
    let arena = arena(16);
    let (first, second) = (vault(&arena), vault(&arena));
    let (cold, lent) = (key(&first, [1; 32]), key(&second, [2; 32]));
    arena.release(cold.slot().unwrap());
    let made = cold.using(|state| {
        first.close_now(NO_TIME);
        state.wrap(&[9; 32], &[1; 12], b"")
    });
    assert!(matches!(made, Err(MemoryError::Closed)));
    let seen = lent.with_bytes(|_| second.close_now(NO_TIME));
    assert!(matches!(seen, Err(MemoryError::Closed)));
}

#[test]
fn nothing_is_left_in_memory_of_keys_that_are_gone() {
    let arena = arena(16);
    assert_eq!(arena.slots_with_residue(), 0);
    let vault = vault(&arena);
    let keys: Vec<_> = (0..40).map(|i| key(&vault, [i; 32])).collect();
    let resident = |keys: &[Arc<LockedKey>]| 1 + keys.iter().filter(|key| key.is_resident()).count();
    assert_eq!(arena.slots_with_residue(), resident(&keys), "demoted keys and scratch are wiped");
    for key in &keys {
        fingerprint(key).unwrap();
        key.with_bytes(|_| ()).unwrap();
    }
    let failed = vault.reserve().unwrap().fill(b"label", |key| {
        key.fill(0xaa);
        Err(Error::Undecryptable)
    });
    assert!(failed.is_err());
    assert_eq!(arena.slots_with_residue(), resident(&keys), "so are scratch and places that were not filled");
    drop(keys);
    assert_eq!(arena.slots_with_residue(), 1, "so are keys that nobody holds");
    let kept: Vec<_> = (0..40).map(|i| key(&vault, [i; 32])).collect();
    vault.close_now(NO_TIME);
    assert_eq!(arena.slots_with_residue(), 0, "and so is everything when the vault closes");
    drop(kept);
}

#[test]
fn the_plain_bytes_are_wiped_once_a_key_is_expanded() {
    let arena = arena(16);
    let mut slot = arena.claim(1).unwrap();
    slot.bytes().key = [0xaa; 32];
    slot.expand();
    assert_eq!(slot.bytes().key, [0; 32]);
}

#[test]
fn readers_racing_a_close_never_publish_what_a_wiped_key_made() {
    for _ in 0..200 {
        let arena = arena(16);
        let vault = vault(&arena);
        let key = key(&vault, [1; 32]);
        let expected = fingerprint(&key).unwrap();
        let (good, started) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Ok(made) = fingerprint(&key) {
                        assert_eq!(made, expected);
                        good.fetch_add(1, Ordering::Relaxed);
                        started.store(true, Ordering::Release);
                    }
                });
            }
            while !started.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            vault.close_now(NO_TIME);
        });
        assert!(good.load(Ordering::Relaxed) > 0);
    }
}

#[test]
fn scratch_runs_out_with_an_error_and_without_waiting() {
    let arena = arena(16);
    let vault = vault(&arena);
    let key = key(&vault, [1; 32]);
    let exhausted =
        key.with_bytes(|_| key.with_bytes(|_| key.with_bytes(|_| key.with_bytes(|_| key.with_bytes(|_| ())))));
    let innermost = exhausted.and_then(|r| r).and_then(|r| r).and_then(|r| r).and_then(|r| r);
    assert!(matches!(innermost, Err(MemoryError::Exhausted { slots: 4 })));
    assert!(key.with_bytes(|bytes| assert_eq!(bytes, &[1; 32])).is_ok(), "and all of it came back");
}

/// Runs `check` in a forked child and returns its exit code; a panic is 101.
#[expect(unsafe_code, reason = "fork")]
pub(super) fn exit_code_of_a_fork(check: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs `check`, which takes no lock that another thread may hold, and leaves without clean-up.
    match unsafe { libc::fork() } {
        0 => {
            let code = catch_unwind(AssertUnwindSafe(check)).unwrap_or(101);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(code) }
        }
        child => {
            let mut status = -1;
            // SAFETY: waits for the child just started and writes its status.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert!(libc::WIFEXITED(status), "ended by signal {}", libc::WTERMSIG(status));
            libc::WEXITSTATUS(status)
        }
    }
}

/// Runs `check` in a forked child and returns whether it held there.
pub(super) fn holds_in_a_fork(check: impl FnOnce() -> bool) -> bool {
    exit_code_of_a_fork(|| i32::from(!check())) == 0
}

#[test]
fn a_forked_child_gets_an_error_and_never_a_key() {
    let arena = arena(16);
    let vault = vault(&arena);
    let (hot, cold) = (key(&vault, [1; 32]), key(&vault, [2; 32]));
    arena.release(cold.slot().unwrap());
    assert!(hot.is_resident() && !cold.is_resident());
    let (hot_expected, cold_expected) = (fingerprint(&hot).unwrap(), fingerprint(&cold).unwrap());
    assert!(holds_in_a_fork(|| {
        [&hot, &cold].into_iter().all(|key| {
            matches!(fingerprint(key), Err(MemoryError::Forked))
                && matches!(key.with_bytes(|_| ()), Err(MemoryError::Forked))
        }) && matches!(vault.reserve(), Err(MemoryError::Forked))
    }));
    assert!(!holds_in_a_fork(|| fingerprint(&hot).is_ok()), "the child's answer is heard");
    assert_eq!((fingerprint(&hot).unwrap(), fingerprint(&cold).unwrap()), (hot_expected, cold_expected));
}

#[test]
fn a_forked_child_never_draws_the_bytes_of_its_parent() {
    let draw = || {
        let mut bytes = [0; 32];
        super::system_random()(&mut bytes).unwrap();
        bytes
    };
    draw();
    let (mut from, to) = std::io::pipe().unwrap();
    assert!(holds_in_a_fork(|| std::io::Write::write_all(&mut &to, &draw()).is_ok()));
    let (mut childs, parents) = ([0; 32], draw());
    std::io::Read::read_exact(&mut from, &mut childs).unwrap();
    assert_ne!(childs, parents);
    assert!(childs != [0; 32]);
}

#[test]
fn a_panic_while_computing_gives_the_slot_back() {
    let arena = arena(16);
    let vault = vault(&arena);
    let key = key(&vault, [1; 32]);
    let outcome = catch_unwind(AssertUnwindSafe(|| key.using(|_| std::panic::panic_any("in the middle"))));
    assert!(outcome.is_err());
    assert!(vault.is_drained());
    let outcome = catch_unwind(AssertUnwindSafe(|| key.with_bytes(|_| std::panic::panic_any("in the middle"))));
    assert!(outcome.is_err());
    assert!(vault.is_drained() && fingerprint(&key).is_ok());
}

#[test]
fn a_failed_fill_leaves_nothing_behind() {
    let arena = arena(16);
    let vault = vault(&arena);
    let failed = vault.reserve().unwrap().fill(b"label", |key| {
        key.fill(0xaa);
        Err(Error::Undecryptable)
    });
    assert!(matches!(failed, Err(Error::Undecryptable)));
    assert_eq!((vault.live(), arena.status().slots_in_use), (0, 1));
    drop(vault.reserve().unwrap());
    assert_eq!(arena.status().slots_in_use, 1);
}

#[test]
fn a_failing_generator_makes_no_key() {
    let arena = arena(16);
    let draws = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&draws);
    let failing = Vault::open_in(
        Arc::clone(&arena),
        Arc::new(move |bytes: &mut [u8]| {
            bytes.fill(3);
            if counter.fetch_add(1, Ordering::Relaxed) == 0 { Ok(()) } else { Err(RandomError) }
        }),
    )
    .unwrap();
    assert!(matches!(failing.reserve().unwrap().generate::<Error>(b"label"), Err(Error::Random(_))));
    assert_eq!((failing.live(), arena.status().slots_in_use), (0, 1));
}

#[test]
fn an_arena_that_does_not_fit_the_limit_shrinks_or_says_what_it_needs() {
    let settings = ArenaSettings { bytes: 1 << 20, scratch_slots: 1000, ..ArenaSettings::default() };
    let arena = Arena::map(&settings).unwrap();
    let status = arena.status();
    assert!(status.slots >= 8 && status.scratch_slots < status.slots, "{status:?}");
    let said = MemoryError::Budget {
        needed: 16384,
        soft: 0,
        hard: 0,
        locked: 0,
        source: Arc::new(std::io::Error::from_raw_os_error(12)),
    }
    .to_string();
    assert!(said.contains("16384") && said.contains("ulimit -l"), "{said}");
}
