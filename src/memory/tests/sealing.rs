use super::*;

fn arena_with(change: impl FnOnce(&mut ArenaSettings)) -> Arc<Arena> {
    let mut settings = settings(16);
    change(&mut settings);
    Arc::new(Arena::map(&settings).unwrap())
}

/// Goes on with maintenance until there is nothing more to do, and returns in how many parts.
fn maintain(vault: &Vault, now: Instant) -> usize {
    (1..).find(|_| vault.maintain(now).unwrap()).unwrap()
}

#[test]
fn a_sealing_key_is_exchanged_when_its_time_is_over_and_every_key_still_opens() {
    let arena = arena_with(|settings| settings.sealing_key_lifetime = Duration::from_secs(60));
    let vault = vault(&arena);
    let keys: Vec<_> = (0..100).map(|i| key(&vault, [i; 32])).collect();
    let expected: Vec<_> = keys.iter().map(|key| fingerprint(key).unwrap()).collect();
    let copies: Vec<_> = keys.iter().map(|key| key.copy()).collect();
    let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(61));
    maintain(&vault, now);
    assert!(keys.iter().zip(&copies).all(|(key, copy)| key.copy().is_under_that_of(copy)), "not yet due");
    maintain(&vault, later);
    for ((key, copy), expected) in keys.iter().zip(&copies).zip(&expected) {
        assert!(!key.copy().is_under_that_of(copy), "renewed");
        let mut plain = [0; 32];
        assert!(matches!(copy.open(&arena, key.label(), &mut plain), Err(MemoryError::Closed)), "the old copy is dead");
        assert_eq!(fingerprint(key).unwrap(), *expected);
    }
    assert_eq!(arena.status().slots_in_use - arena.status().hot, 1, "one sealing key is left");
}

#[test]
fn a_sealing_key_is_exchanged_when_it_was_used_often_enough() {
    let arena = arena_with(|settings| settings.sealing_key_uses = 10);
    let vault = vault(&arena);
    let first: Vec<_> = (0..9).map(|i| key(&vault, [i; 32])).collect();
    let before = first[0].copy();
    maintain(&vault, Instant::now());
    assert!(first[0].copy().is_under_that_of(&before), "nine uses");
    let tenth = key(&vault, [9; 32]);
    maintain(&vault, Instant::now());
    assert!(!first[0].copy().is_under_that_of(&before) && tenth.copy().is_under_that_of(&first[0].copy()));
}

#[test]
fn an_exchange_in_parts_leaves_every_key_usable_in_between_and_takes_new_ones() {
    let arena = arena_with(|settings| settings.sealing_key_lifetime = Duration::from_secs(60));
    let vault = vault(&arena);
    let mut keys: Vec<_> = (0..1500_u32).map(|i| key(&vault, [u8::try_from(i % 251).unwrap(); 32])).collect();
    let later = Instant::now() + Duration::from_secs(61);
    let mut parts = 0;
    loop {
        parts += 1;
        let done = vault.maintain(later).unwrap();
        keys.push(key(&vault, [7; 32]));
        assert!(keys.iter().step_by(97).all(|key| fingerprint(key).is_ok()));
        if done {
            break;
        }
    }
    assert_eq!(parts, 3, "1,500 keys, 512 at a time");
    let newest = keys.last().unwrap().copy();
    assert!(keys.iter().all(|key| key.copy().is_under_that_of(&newest) && fingerprint(key).is_ok()));
}

#[test]
fn readers_of_cold_keys_go_on_while_the_sealing_key_is_exchanged() {
    let arena = arena_with(|settings| settings.sealing_key_lifetime = Duration::ZERO);
    let vault = vault(&arena);
    let keys: Vec<_> = (0..64).map(|i| key(&vault, [i; 32])).collect();
    let expected: Vec<_> = keys.iter().map(|key| fingerprint(key).unwrap()).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = || {
            while !stop.load(Ordering::Relaxed) {
                for (key, expected) in keys.iter().zip(&expected) {
                    assert_eq!(fingerprint(key).unwrap(), *expected);
                }
            }
        };
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for _ in 0..300 {
            maintain(&vault, Instant::now());
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn a_copy_opens_only_as_the_key_of_its_arena_that_it_is() {
    let (arena, other) = (arena(16), arena(16));
    let key = key(&vault(&arena), [1; 32]);
    assert_ne!(arena.id(), other.id());
    let own = [b"label".as_slice(), &arena.id().to_le_bytes()].concat();
    assert_eq!(key.label(), own);
    // A label that does not fit is damage, which concerns the whole process.
    for (label, opens) in [(own, true), ([b"label".as_slice(), &other.id().to_le_bytes()].concat(), false)] {
        let code = exit_code_of_a_fork(|| {
            let arena = super::arena(16);
            let key = super::key(&vault(&arena), [1; 32]);
            let mut label = label.clone();
            if opens {
                label = key.label().to_vec();
            }
            i32::from(key.copy().open(&arena, &label, &mut [0; 32]).is_ok())
        });
        assert_eq!(code, i32::from(opens));
    }
}

#[test]
fn a_vault_that_is_dropped_leaves_nothing() {
    let arena = arena(16);
    let vault = vault(&arena);
    let key = key(&vault, [1; 32]);
    drop(vault);
    assert!(fingerprint(&key).is_ok(), "a key outlives the handle");
    drop(key);
    assert_eq!((arena.status().slots_in_use, arena.slots_with_residue()), (0, 0));
}
