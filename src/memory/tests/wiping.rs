//! A wipe of everything concerns the whole process, so each test has one of its own: a fork that maps an arena.

use super::super::backend::Backend;
use super::super::wipe::{Wiped, purge};
use super::*;

#[test]
fn a_purge_wipes_arenas_closes_them_for_good_and_is_idempotent() {
    for (require, read_only_view) in
        [(Backend::Mlock, false), (Backend::MemfdSecret, false), (Backend::MemfdSecret, true)]
    {
        let code = exit_code_of_a_fork(|| {
            let settings = ArenaSettings { require: Some(require), read_only_view, ..settings(16) };
            let arena = Arc::new(Arena::map(&settings).unwrap());
            let vault = vault(&arena);
            let keys: Vec<_> = (0..40).map(|i| key(&vault, [i; 32])).collect();
            let residue = |arena: &Arena| if read_only_view { 0 } else { arena.slots_with_residue() };
            assert!(read_only_view || residue(&arena) > 0);
            let wiped = purge();
            assert!(wiped.ranges >= 1 && wiped.bytes >= arena.status().locked_bytes / 2 && wiped.failed == 0);
            assert_eq!((residue(&arena), purge()), (0, Wiped::default()));
            for key in &keys {
                assert!(matches!(fingerprint(key), Err(MemoryError::Closed)));
                assert!(matches!(key.with_bytes(|_| ()), Err(MemoryError::Closed)));
            }
            assert!(matches!(vault.reserve(), Err(MemoryError::Closed)));
            assert!(matches!(vault.maintain(Instant::now()), Err(MemoryError::Closed)));
            drop((keys, vault, arena));
            // What comes later works.
            let later = Vault::open(&settings).unwrap();
            assert!(later.generate(b"later").unwrap().using(|_| ()).is_ok());
            0
        });
        assert_eq!(code, 0, "{require}, view: {read_only_view}");
    }
}

#[test]
fn a_purge_in_the_middle_discards_the_output_hot_cold_and_in_a_place() {
    let code = exit_code_of_a_fork(|| {
        let uses: [fn(&Arena, &LockedKey) -> Option<MemoryError>; 4] = [
            |_, key| key.using(|_| purge()).err(),
            |arena, key| {
                arena.release(key.slot().unwrap());
                key.using(|_| purge()).err()
            },
            |_, key| key.with_bytes(|_| purge()).err(),
            |_, key| key.with_place(|_| purge()).err(),
        ];
        let discards = |use_key: &fn(&Arena, &LockedKey) -> Option<MemoryError>| {
            let arena = arena(16);
            let vault = vault(&arena);
            matches!(use_key(&arena, &key(&vault, [1; 32])), Some(MemoryError::Closed))
        };
        i32::from(!uses.iter().all(discards))
    });
    assert_eq!(code, 0);
}

#[test]
fn a_purge_while_a_place_is_filled_leaves_no_key_in_it() {
    let code = exit_code_of_a_fork(|| {
        let arena = arena(16);
        let vault = vault(&arena);
        let filled = vault.reserve().unwrap().fill(b"label", |key| {
            purge();
            key.fill(7);
            Ok::<_, MemoryError>(())
        });
        assert!(matches!(filled, Err(MemoryError::Closed)));
        i32::try_from(arena.slots_with_residue()).unwrap()
    });
    assert_eq!(code, 0);
}

#[test]
fn a_childs_purge_leaves_its_parents_keys_alone() {
    let arena = arena(16);
    let vault = vault(&arena);
    let key = key(&vault, [1; 32]);
    let expected = fingerprint(&key).unwrap();
    assert_eq!(exit_code_of_a_fork(|| i32::try_from(purge().ranges).unwrap()), 0);
    assert_eq!(fingerprint(&key).unwrap(), expected);
}

#[test]
fn readers_of_a_view_cannot_write_it() {
    let settings = ArenaSettings { require: Some(Backend::MemfdSecret), read_only_view: true, ..settings(16) };
    let arena = Arc::new(Arena::map(&settings).unwrap());
    let vault = vault(&arena);
    let key = key(&vault, [1; 32]);
    assert_eq!(fingerprint(&key).unwrap(), fingerprint(&self::key(&vault, [1; 32])).unwrap());
    let index = key.slot().unwrap().index as usize;
    assert_ne!(arena.view(index).addr(), arena.bytes(index).addr());
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let permissions = |address: usize| {
        let holds = |line: &&str| {
            let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
            (usize::from_str_radix(from, 16).unwrap()..usize::from_str_radix(to, 16).unwrap()).contains(&address)
        };
        maps.lines().find(holds).unwrap().split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(permissions(arena.view(index).addr()), "r--s");
    assert_eq!(permissions(arena.bytes(index).addr()), "rw-s");
}

#[test]
fn whoever_purges_returns_when_the_purges_of_others_have_ended() {
    let code = exit_code_of_a_fork(|| {
        let arenas: Vec<_> =
            (0..8).map(|_| Arena::map(&ArenaSettings { bytes: 1 << 20, ..settings(16) }).unwrap()).collect();
        let dirty = |arena: &Arc<Arena>| key(&vault(arena), [7; 32]);
        let arenas: Vec<_> = arenas.into_iter().map(Arc::new).collect();
        let keys: Vec<_> = arenas.iter().map(dirty).collect();
        let start = std::sync::Barrier::new(2);
        let all_are_clean = || {
            start.wait();
            purge();
            arenas.iter().all(|arena| arena.slots_with_residue() == 0)
        };
        let clean =
            std::thread::scope(|scope| [scope.spawn(all_are_clean), scope.spawn(all_are_clean)].map(|it| it.join()));
        drop(keys);
        i32::from(!clean.into_iter().all(|clean| clean.unwrap_or(false)))
    });
    assert_eq!(code, 0);
}
