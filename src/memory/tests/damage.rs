//! Damage wipes the whole process, so each test has one of its own: a fork that maps an arena.

use super::*;

/// Runs `check` on an arena, with a vault and a key in it, that a forked child has to itself.
fn in_a_fork_with_a_key(on_damage: OnDamage, check: impl FnOnce(&Arc<Arena>, &Vault, &LockedKey) -> bool) -> i32 {
    exit_code_of_a_fork(|| {
        let arena = Arc::new(Arena::map(&ArenaSettings { on_damage, ..settings(16) }).unwrap());
        let vault = vault(&arena);
        let key = key(&vault, [1; 32]);
        i32::from(!check(&arena, &vault, &key))
    })
}

/// Writes one byte past the end of what belongs to the key at `slot`.
#[expect(unsafe_code, reason = "the stray write that canaries are for")]
fn overrun(arena: &Arena, slot: usize) {
    let past_the_end = arena.bytes(slot).cast::<u8>().wrapping_add(SlotBytes::SECRET);
    // SAFETY: inside the mapping; what stands there is plain bytes that nobody else reads or writes now.
    unsafe { past_the_end.write(past_the_end.read() ^ 1) };
}

#[test]
fn a_byte_past_a_slot_is_found_by_the_audit_and_closes_everything() {
    let code = in_a_fork_with_a_key(OnDamage::Error, |arena, vault, key| {
        let slot = key.slot().unwrap().index as usize;
        assert!(vault.maintain(Instant::now()).is_ok() && fingerprint(key).is_ok());
        overrun(arena, slot);
        let told =
            |error: Option<MemoryError>| matches!(error, Some(MemoryError::Damaged { slot: at }) if at == slot as u64);
        told(vault.maintain(Instant::now()).err())
            && told(fingerprint(key).err())
            && told(key.with_bytes(|_| ()).err())
            && told(vault.reserve().err())
            && arena.status().canary_failures == 1
            && arena.slots_with_residue() == 0
    });
    assert_eq!(code, 0);
}

#[test]
fn a_byte_past_a_slot_is_found_when_its_key_goes() {
    let code = in_a_fork_with_a_key(OnDamage::Error, |arena, _, key| {
        let slot = key.slot().unwrap();
        overrun(arena, slot.index as usize);
        arena.release(slot);
        matches!(fingerprint(key), Err(MemoryError::Damaged { .. }))
    });
    assert_eq!(code, 0);
}

#[test]
fn a_sealed_copy_that_was_written_over_closes_everything() {
    let code = in_a_fork_with_a_key(OnDamage::Error, |arena, _, key| {
        let mut copy = key.copy();
        copy.damage();
        key.set_copy(copy);
        let hot_still_works = fingerprint(key).is_ok();
        arena.release(key.slot().unwrap());
        hot_still_works && matches!(fingerprint(key), Err(MemoryError::DamagedCopy)) && arena.slots_with_residue() == 0
    });
    assert_eq!(code, 0);
}

#[test]
fn by_default_damage_ends_the_process_with_70() {
    assert_eq!(ArenaSettings::default().on_damage, OnDamage::Exit);
    let code = in_a_fork_with_a_key(OnDamage::Exit, |arena, vault, key| {
        overrun(arena, key.slot().unwrap().index as usize);
        vault.maintain(Instant::now()).is_ok()
    });
    assert_eq!(code, 70);
}
