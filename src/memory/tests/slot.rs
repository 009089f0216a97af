use super::super::slot::{Announcement, Pinned, SlotControl, State};

#[test]
fn a_slot_goes_round_and_every_key_in_it_has_its_own_generation() {
    let (slot, own) = (SlotControl::alone(), Announcement::new());
    let all = || std::iter::once(&own);
    let first = slot.claim(7, all()).unwrap();
    assert_eq!(slot.pin(&own, first), Pinned::Gone, "claimed slots are not readable");
    slot.publish(first);
    assert_eq!(slot.pin(&own, first), Pinned::Yes);
    assert!(!slot.take_unread(first, all), "a pinned slot is not demoted");
    assert!(slot.is_intact(first) && slot.state() == State::Live);
    own.clear();
    assert!(!slot.take_unread(first + 1, all), "nor is another key than the one meant");
    assert!(slot.take_unread(first, all));
    slot.free();
    let second = slot.claim(8, all()).unwrap();
    assert_eq!((second, slot.owner(), slot.is_read(all())), (first + 1, 8, false));
    slot.publish(second);
    assert!(!slot.begin_wipe(first), "a stale wiper does not touch another key");
    slot.drain(first);
    assert_eq!(slot.state(), State::Live);
    assert_eq!(slot.pin(&own, first), Pinned::Gone, "a stale reference does not read another key");
    assert!(!slot.is_read(all()));
}

#[test]
fn readers_finish_while_draining_and_notice_a_forced_wipe() {
    for shared in [false, true] {
        let (slot, own) = (SlotControl::alone(), Announcement::new());
        let all = || std::iter::once(&own);
        let pin = |generation| if shared { slot.pin_shared(generation) } else { slot.pin(&own, generation) };
        let generation = slot.claim(1, all()).unwrap();
        slot.publish(generation);
        assert_eq!(pin(generation), Pinned::Yes);
        slot.drain(generation);
        assert_eq!(slot.pin_shared(generation), Pinned::Leaving, "no new readers");
        assert!(slot.is_intact(generation), "the old one may finish");
        assert!(slot.begin_wipe(generation));
        assert!(!slot.is_intact(generation));
        slot.free();
        assert!(slot.is_read(all()), "the straggler's pin survives the wipe");
        assert_eq!(slot.claim(1, all()), None, "and keeps the slot from the next key");
        if shared {
            slot.unpin();
        } else {
            own.clear();
        }
        assert_eq!(slot.claim(1, all()), Some(generation + 1));
    }
}

#[test]
fn a_zeroed_word_is_dead_and_stays_so() {
    let (slot, own) = (SlotControl::dead(), Announcement::new());
    assert_eq!(slot.state(), State::Dead);
    assert_eq!(slot.pin(&own, 0), Pinned::Gone);
    assert!(slot.claim(1, std::iter::empty()).is_none());
    slot.free();
    assert_eq!(slot.state(), State::Dead);
}
