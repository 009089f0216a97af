use std::io::{ErrorKind, Read};

use super::super::wipe::purge;
use super::super::{GuardedMemoryFactory, ProtectedMemoryFactory, Secret, SecretExt, SecretFactory, SecretReader, sys};
use super::*;

const GUARDED: GuardedMemoryFactory = GuardedMemoryFactory { on_damage: OnDamage::Error };

fn factories() -> [&'static dyn SecretFactory; 2] {
    [&ProtectedMemoryFactory, &GUARDED]
}

fn secret(factory: &dyn SecretFactory) -> Box<dyn Secret> {
    factory.create(&mut b"correct horse".to_vec()).unwrap()
}

/// Returns the permissions of the mapping at `address`; `None` where there is none.
fn permissions(address: usize) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let bound = |text| usize::from_str_radix(text, 16).ok();
        (bound(from)?..bound(to)?).contains(&address).then(|| rest[..3].to_owned())
    })
}

fn address(secret: &dyn Secret) -> usize {
    secret.with(|bytes| bytes.as_ptr().addr()).unwrap()
}

#[test]
fn a_source_is_wiped_also_when_no_secret_comes_of_it() {
    for factory in factories() {
        let mut source = *b"correct horse";
        let secret = factory.create(&mut source).unwrap();
        assert_eq!((source, secret.len(), secret.is_empty()), ([0; 13], 13, false));
        assert_eq!(secret.with(<[u8]>::to_vec).unwrap(), b"correct horse");
        assert!(matches!(factory.create(&mut []), Err(MemoryError::Empty)));
        assert!(matches!(factory.random(0), Err(MemoryError::Empty)));
        let random = || factory.random(32).unwrap().with(<[u8]>::to_vec).unwrap();
        assert_ne!(random(), random());
    }
}

#[test]
fn memory_that_is_not_to_be_had_harms_nobody_else() {
    for factory in factories() {
        let other = secret(factory);
        for length in [usize::MAX, usize::MAX / 2] {
            assert!(factory.random(length).is_err(), "{length}");
        }
        assert!(other.with(|bytes| bytes == b"correct horse").unwrap());
    }
}

#[test]
fn pages_are_inaccessible_except_while_somebody_uses_them() {
    for factory in factories() {
        let secret = secret(factory);
        let at = address(&*secret);
        assert_eq!(permissions(at).as_deref(), Some("---"));
        secret
            .with(|_| {
                assert_eq!(permissions(at).as_deref(), Some("r--"));
                secret.with(|_| assert_eq!(permissions(at).as_deref(), Some("r--"))).unwrap();
                assert_eq!(permissions(at).as_deref(), Some("r--"), "another use has ended");
            })
            .unwrap();
        assert_eq!(permissions(at).as_deref(), Some("---"));
        let page = sys::page_size();
        let pages = at & !(page - 1);
        assert_eq!(
            (permissions(pages - 1).as_deref(), permissions(pages + page).as_deref()),
            (Some("---"), Some("---"))
        );
    }
}

#[test]
fn a_guarded_secret_ends_where_its_guard_page_begins() {
    let page = sys::page_size();
    for length in [1, 13, 4095, 4096, 4097] {
        let secret = GUARDED.random(length).unwrap();
        assert_eq!((address(&*secret) + length) % page, 0, "{length}");
        secret.close().unwrap();
    }
}

#[test]
fn uses_in_parallel_see_the_secret_while_it_is_closed_under_them() {
    for factory in factories() {
        for _ in 0..50 {
            let secret = secret(factory);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while let Ok(same) = secret.with(|bytes| bytes == b"correct horse") {
                            assert!(same);
                        }
                    });
                }
                secret.close().unwrap();
            });
            assert!(matches!(secret.with(|_| ()), Err(MemoryError::Closed)));
        }
    }
}

#[test]
fn closing_inside_a_use_does_not_wait_and_the_use_finishes() {
    for factory in factories() {
        let secret = secret(factory);
        let at = address(&*secret);
        let seen = secret.with(|bytes| {
            secret.close().unwrap();
            assert!(secret.is_closed() && matches!(secret.with(|_| ()), Err(MemoryError::Closed)));
            bytes.to_vec()
        });
        assert_eq!(seen.unwrap(), b"correct horse");
        assert_ne!(permissions(at).as_deref(), Some("r--"), "the last use gave the pages back");
        assert!(secret.is_closed() && secret.close().is_ok() && secret.close().is_ok());
    }
}

#[test]
fn a_panic_in_a_use_ends_it() {
    for factory in factories() {
        let secret = secret(factory);
        let at = address(&*secret);
        let panicked = catch_unwind(AssertUnwindSafe(|| secret.with(|_| std::panic::panic_any("in the middle"))));
        assert!(panicked.is_err());
        assert_eq!(permissions(at).as_deref(), Some("---"));
        assert!(secret.with(|bytes| bytes == b"correct horse").unwrap());
        secret.close().unwrap();
    }
}

#[test]
fn what_a_closure_makes_is_returned_and_wiped_when_the_use_failed() {
    for factory in factories() {
        let secret = secret(factory);
        assert_eq!(secret.with_bytes_func(&mut <[u8]>::to_vec).unwrap(), b"correct horse");
        secret.close().unwrap();
        assert!(matches!(secret.with_bytes_func(&mut <[u8]>::to_vec), Err(MemoryError::Closed)));
    }
}

#[test]
fn a_reader_reads_to_the_end_and_not_past_a_closing() {
    for factory in factories() {
        let secret = secret(factory);
        let mut reader: SecretReader<'_> = secret.reader();
        let (mut five, mut rest) = ([0; 5], Vec::new());
        reader.read_exact(&mut five).unwrap();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!((&five, rest.as_slice()), (b"corre", b"ct horse".as_slice()));
        assert_eq!((reader.read(&mut five).unwrap(), reader.read(&mut []).unwrap()), (0, 0));
        let mut late = secret.reader();
        secret.close().unwrap();
        let error = late.read(&mut five).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Other);
        assert!(matches!(error.downcast::<MemoryError>(), Ok(MemoryError::Closed)));
    }
}

/// Seals the pages of `secret`, so that the kernel refuses to protect and unmap them from now on: mseal(2), Linux 6.10.
#[expect(unsafe_code, reason = "mseal")]
fn seal_pages(at: usize) -> bool {
    const MSEAL: libc::c_long = 462;
    let page = sys::page_size();
    // SAFETY: makes the kernel refuse later calls on a mapping; changes no memory.
    unsafe { libc::syscall(MSEAL, at & !(page - 1), page, 0) == 0 }
}

#[test]
fn a_step_of_closing_that_fails_is_told_and_the_secret_is_closed_all_the_same() {
    for factory in factories() {
        let code = exit_code_of_a_fork(|| {
            let secret = secret(factory);
            if !seal_pages(address(&*secret)) {
                return 2;
            }
            assert!(matches!(secret.close(), Err(MemoryError::System { .. })));
            assert!(secret.is_closed() && secret.close().is_ok());
            assert!(matches!(secret.with(|_| ()), Err(MemoryError::Closed)));
            0
        });
        told_or_skipped(code);
    }
}

#[test]
fn a_secret_that_cannot_be_hidden_after_a_use_is_closed() {
    for factory in factories() {
        let code = exit_code_of_a_fork(|| {
            let secret = secret(factory);
            let mut sealed = false;
            let used = secret.with(|bytes| sealed = seal_pages(bytes.as_ptr().addr()));
            if !sealed {
                return 2;
            }
            assert!(matches!(used, Err(MemoryError::System { .. })), "{used:?}");
            assert!(secret.is_closed() && secret.close().is_ok());
            assert!(matches!(secret.with(|_| ()), Err(MemoryError::Closed)));
            0
        });
        told_or_skipped(code);
    }
}

fn told_or_skipped(code: i32) {
    if code == 2 {
        eprintln!("SKIP: the kernel has no mseal(2)");
    } else {
        assert_eq!(code, 0);
    }
}

/// Writes before a guarded secret, which its canary is for.
#[expect(unsafe_code, reason = "the stray write that canaries are for")]
fn underrun(secret: &dyn Secret) {
    let first = secret.with(|bytes| bytes.as_ptr()).unwrap().cast_mut();
    let at = std::ptr::NonNull::new((first.addr() & !(sys::page_size() - 1)) as *mut u8).unwrap();
    // SAFETY: the page of the secret, which nobody uses; the byte before the secret is part of it.
    unsafe {
        sys::protect(at, sys::page_size(), sys::Access::ReadWrite).unwrap();
        first.sub(1).write(first.sub(1).read() ^ 1);
        sys::protect(at, sys::page_size(), sys::Access::None).unwrap();
    }
}

#[test]
fn a_byte_before_a_guarded_secret_is_found_when_it_goes() {
    let code = exit_code_of_a_fork(|| {
        let (damaged, other) = (secret(&GUARDED), secret(&ProtectedMemoryFactory));
        underrun(&*damaged);
        assert!(matches!(damaged.close(), Err(MemoryError::DamagedSecret)));
        assert!(damaged.is_closed() && damaged.close().is_ok());
        assert!(matches!(other.with(|_| ()), Err(MemoryError::Closed)), "all secrets were wiped");
        assert!(secret(&GUARDED).with(|_| ()).is_ok(), "what comes later works");
        0
    });
    assert_eq!(code, 0);
    let code = exit_code_of_a_fork(|| {
        let damaged = secret(&GuardedMemoryFactory::default());
        underrun(&*damaged);
        drop(damaged);
        0
    });
    assert_eq!(code, 70, "by default the process ends");
}

#[test]
fn a_forked_child_gets_no_secret_and_its_parent_keeps_it() {
    for factory in factories() {
        let secret = secret(factory);
        assert!(holds_in_a_fork(|| {
            let refused = matches!(secret.with(|_| ()), Err(MemoryError::Forked))
                && matches!(secret.close(), Err(MemoryError::Forked))
                && secret.reader().read(&mut [0]).is_err();
            purge();
            refused && super::secrets::secret(factory).with(|_| ()).is_ok()
        }));
        assert!(holds_in_a_fork(|| {
            drop(super::secrets::secret(factory));
            true
        }));
        assert!(secret.with(|bytes| bytes == b"correct horse").unwrap());
    }
}

#[test]
fn a_purge_closes_secrets_and_discards_what_a_use_made() {
    for factory in factories() {
        let code = exit_code_of_a_fork(|| {
            let (idle, used) = (secret(factory), secret(factory));
            let mut seen = Vec::new();
            let outcome = used.with(|bytes| {
                purge();
                seen = bytes.to_vec();
            });
            assert!(matches!(outcome, Err(MemoryError::Closed)) && seen.iter().all(|&byte| byte == 0));
            assert!(matches!(used.with_bytes_func(&mut <[u8]>::to_vec), Err(MemoryError::Closed)));
            for secret in [&idle, &used] {
                assert!(secret.is_closed() && matches!(secret.with(|_| ()), Err(MemoryError::Closed)));
                assert!(secret.close().is_ok());
            }
            0
        });
        assert_eq!(code, 0);
    }
}
