use std::io::Read;

use proptest::prelude::*;
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::super::wipe::purge;
use super::super::{Buffer, Enclave, sys};
use super::*;

#[test]
fn a_buffer_takes_bytes_wipes_their_source_and_ends_at_a_guard_page() {
    let mut source = *b"correct horse";
    let buffer = Buffer::from_bytes(&mut source).unwrap();
    assert_eq!((source, buffer.bytes().unwrap()), ([0; 13], b"correct horse".as_slice()));
    assert_eq!((buffer.bytes().unwrap().as_ptr().addr() + 13) % sys::page_size(), 0);
    assert!(buffer.equals(b"correct horse").unwrap() && !buffer.equals(b"correct horsf").unwrap());
    assert!(!buffer.equals(b"correct").unwrap());
    let mut copy = Vec::new();
    buffer.reader().unwrap().read_to_end(&mut copy).unwrap();
    assert_eq!(copy, b"correct horse");
    buffer.destroy().unwrap();
    assert!(matches!(Buffer::new(0), Err(MemoryError::Empty)));
    assert!(matches!(Buffer::from_bytes(&mut []), Err(MemoryError::Empty)));
    let mut huge = std::io::repeat(1);
    assert!(Buffer::from_reader(&mut huge, usize::MAX).is_err());
    assert_eq!(Buffer::from_reader(&mut huge, 3).unwrap().bytes().unwrap(), [1; 3]);
    assert!(Buffer::from_reader(&mut [1_u8, 2].as_slice(), 3).is_err(), "too few");
}

#[test]
fn a_frozen_buffer_is_read_only_until_it_is_melted() {
    let mut buffer = Buffer::random(16).unwrap();
    assert!(!buffer.is_mutable());
    for refused in [buffer.scramble(), buffer.wipe(), buffer.copy_from(&[1]), buffer.bytes_mut().map(drop)] {
        assert!(matches!(refused, Err(MemoryError::Frozen)));
    }
    let mut source = [1; 4];
    assert!(matches!(buffer.move_in(&mut source), Err(MemoryError::Frozen)));
    assert_eq!(source, [0; 4], "wiped all the same");
    buffer.melt().unwrap();
    assert!(buffer.is_mutable());
    buffer.copy_at(14, &[1, 2]).unwrap();
    assert_eq!(buffer.bytes().unwrap()[14..], [1, 2]);
    for (offset, bytes) in [(15, 2), (17, 0), (usize::MAX, 1), (0, 17)] {
        assert!(matches!(buffer.copy_at(offset, &vec![0; bytes]), Err(MemoryError::Shape { .. })), "{offset}, {bytes}");
    }
    let before = buffer.bytes().unwrap().to_vec();
    buffer.scramble().unwrap();
    assert_ne!(buffer.bytes().unwrap(), before);
    buffer.wipe().unwrap();
    assert_eq!(buffer.bytes().unwrap(), [0; 16]);
}

#[test]
fn bytes_are_words_where_they_make_whole_ones() {
    let mut buffer = Buffer::new(24).unwrap();
    buffer.copy_at(8, &7_u64.to_ne_bytes()).unwrap();
    assert_eq!(buffer.as_u64s().unwrap(), [0, 7, 0]);
    assert_eq!((buffer.as_u32s().unwrap().len(), buffer.as_u16s().unwrap().len()), (6, 12));
    assert_eq!(buffer.as_array::<24>().unwrap()[8..16], 7_u64.to_ne_bytes());
    assert!(matches!(buffer.as_array::<23>(), Err(MemoryError::Shape { bytes: 24, of: 23 })));
    let odd = Buffer::new(7).unwrap();
    assert!(matches!(odd.as_u16s(), Err(MemoryError::Shape { bytes: 7, of: 2 })));
}

#[test]
fn secrets_of_other_crates_move_in_and_out() {
    let buffer = Buffer::try_from(SecretString::from("correct horse")).unwrap();
    assert_eq!(buffer.to_secret().unwrap().expose_secret(), b"correct horse");
    let buffer = Buffer::try_from(SecretSlice::from(vec![1, 2, 3])).unwrap();
    assert_eq!(buffer.bytes().unwrap(), [1, 2, 3]);
    assert!(matches!(Buffer::try_from(SecretString::from("")), Err(MemoryError::Empty)));
    let enclave = Enclave::try_from(SecretSlice::from(vec![1, 2, 3])).unwrap();
    assert_eq!(enclave.open().unwrap().bytes().unwrap(), [1, 2, 3]);
}

#[test]
fn what_is_printed_of_a_secret_is_not_the_secret() {
    let (buffer, enclave) = (Buffer::from_bytes(&mut [0x41; 8]).unwrap(), Enclave::new(&mut [0x41; 8]).unwrap());
    for text in [format!("{buffer:?}"), format!("{enclave:?}")] {
        assert!(text.contains("len: 8") && !text.contains("65") && !text.contains("AAAA"), "{text}");
    }
}

#[test]
fn an_enclave_opens_any_number_of_times_and_wipes_its_source() {
    let mut source = *b"correct horse";
    let enclave = Enclave::new(&mut source).unwrap();
    assert_eq!((source, enclave.len(), enclave.is_empty()), ([0; 13], 13, false));
    for _ in 0..3 {
        let opened = enclave.open().unwrap();
        assert!(!opened.is_mutable() && opened.bytes().unwrap() == b"correct horse");
    }
    let again = enclave.open().unwrap().seal().unwrap();
    assert_eq!(again.open().unwrap().bytes().unwrap(), b"correct horse");
    assert!(matches!(Enclave::new(&mut []), Err(MemoryError::Empty)));
    let random = || Enclave::random(32).unwrap().open().unwrap().bytes().unwrap().to_vec();
    assert_ne!(random(), random());
}

#[test]
fn an_enclave_that_was_written_over_does_not_open() {
    let mut enclave = Enclave::new(&mut [1; 8]).unwrap();
    enclave.damage();
    assert!(matches!(enclave.open(), Err(MemoryError::NotAuthentic)));
}

#[test]
fn buffers_and_enclaves_are_refused_in_a_fork_and_their_parents_keep_them() {
    let (mut buffer, enclave) = (Buffer::from_bytes(&mut [1; 8]).unwrap(), Enclave::new(&mut [2; 8]).unwrap());
    assert!(holds_in_a_fork(|| {
        let refused = matches!(buffer.bytes(), Err(MemoryError::Forked))
            && matches!(buffer.freeze(), Err(MemoryError::Forked))
            && matches!(enclave.open(), Err(MemoryError::Forked));
        purge();
        let own = Enclave::new(&mut [3; 8]).unwrap();
        refused && own.open().unwrap().bytes().unwrap() == [3; 8]
    }));
    assert_eq!(
        (buffer.bytes().unwrap(), enclave.open().unwrap().bytes().unwrap()),
        ([1; 8].as_slice(), [2; 8].as_slice())
    );
}

#[test]
fn a_purge_zeroes_buffers_and_closes_enclaves_and_later_ones_work() {
    let code = exit_code_of_a_fork(|| {
        let (buffer, enclave) = (Buffer::from_bytes(&mut [1; 8]).unwrap(), Enclave::new(&mut [2; 8]).unwrap());
        let held = buffer.bytes().unwrap();
        purge();
        assert_eq!(held, [0; 8]);
        assert!(!buffer.is_alive() && matches!(buffer.bytes(), Err(MemoryError::Closed)));
        assert!(matches!(buffer.equals(&[0; 8]), Err(MemoryError::Closed)));
        assert!(matches!(enclave.open(), Err(MemoryError::Closed)));
        assert!(buffer.destroy().is_ok());
        let later = Enclave::new(&mut [3; 8]).unwrap();
        assert_eq!(later.open().unwrap().bytes().unwrap(), [3; 8]);
        0
    });
    assert_eq!(code, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_buffer_does_what_a_vector_does(
        start in proptest::collection::vec(any::<u8>(), 1..5000),
        writes in proptest::collection::vec((0_usize..5200, proptest::collection::vec(any::<u8>(), 0..300)), 0..20),
    ) {
        let mut model = start.clone();
        let mut buffer = Buffer::from_bytes(&mut start.clone()).unwrap();
        for (offset, bytes) in writes {
            let fits = offset + bytes.len() <= model.len();
            prop_assert_eq!(buffer.copy_at(offset, &bytes).is_ok(), fits);
            if fits {
                model[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            prop_assert_eq!(buffer.bytes().unwrap(), &model);
        }
        let enclave = buffer.seal().unwrap();
        let opened = enclave.open().unwrap();
        prop_assert_eq!(opened.bytes().unwrap(), &model);
    }
}

#[test]
fn a_request_beyond_the_limit_is_refused_without_touching_memory() {
    let code = exit_code_of_a_fork(|| {
        become_nobody();
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = resident();
        assert!(matches!(Buffer::new(1 << 30), Err(MemoryError::Budget { .. })));
        i32::from(resident() > before + 64 * 1024)
    });
    assert_eq!(code, 0);
}

/// Gives up root's right to lock what it likes, and asks for little.
#[expect(unsafe_code, reason = "setrlimit and setuid")]
fn become_nobody() {
    let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
    // SAFETY: this process is a fork that ends after the test.
    unsafe {
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit);
        libc::setresuid(65_534, 65_534, 65_534);
    }
}
