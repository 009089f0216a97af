//! Secrets whose pages are inaccessible except while they are used: in pages of their own, or flush against a guard page
//! behind a canary.

use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroize;

use super::pages::Access;
use super::placed::{Layout, Placed};
use super::process;
use super::secret::{Secret, SecretFactory, SecretReader};
use super::settings::OnDamage;
use super::worker::system_random;
use crate::error::MemoryError;

/// A secret at the start of pages of its own, which are inaccessible while nobody uses it.
///
/// Costs a page of locked memory and two that are not; a use that is alone costs two calls to mprotect(2), some 1.5 µs, and
/// waits for nobody. Not `Clone`, not comparable, silent in `Debug`:
///
/// ```compile_fail,E0277
/// fn copies<T: Clone>() {}
/// copies::<keyward::memory::ProtectedMemory>();
/// ```
///
/// ```compile_fail,E0277
/// fn compares<T: PartialEq>() {}
/// compares::<keyward::memory::ProtectedMemory>();
/// ```
///
/// ```compile_fail,E0277
/// fn serializes<T: serde::Serialize>() {}
/// serializes::<keyward::memory::ProtectedMemory>();
/// ```
pub struct ProtectedMemory(Single);

/// A secret that ends where the guard page begins, with a random canary before it that is looked at when it goes.
///
/// Where the secret fills its pages there is no room for a canary, and a guard page on either side. Otherwise as
/// [`ProtectedMemory`]. Reading or writing one byte past its end is a fault; writing before its start is found
/// at the latest when it is closed.
pub struct GuardedMemory(Single);

/// Makes [`ProtectedMemory`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ProtectedMemoryFactory;

/// Makes [`GuardedMemory`].
#[derive(Debug, Clone, Copy, Default)]
pub struct GuardedMemoryFactory {
    /// What happens, after all secrets were wiped, when a canary was written over; by default the process ends.
    pub on_damage: OnDamage,
}

macro_rules! secrets {
    ($($secret:ident by $factory:ident, $layout:expr;)*) => {$(
        impl Secret for $secret {
            fn with_bytes(&self, work: &mut dyn FnMut(&[u8])) -> Result<(), MemoryError> {
                self.0.with_bytes(work)
            }

            fn len(&self) -> usize {
                self.0.length
            }

            fn is_closed(&self) -> bool {
                self.0.is_closed()
            }

            fn close(&self) -> Result<(), MemoryError> {
                self.0.close()
            }

            fn reader(&self) -> SecretReader<'_> {
                SecretReader::new(self)
            }
        }

        impl SecretFactory for $factory {
            fn create(&self, bytes: &mut [u8]) -> Result<Box<dyn Secret>, MemoryError> {
                let made = Single::new(bytes.len(), $layout(self), |place| {
                    place.copy_from_slice(bytes);
                    Ok(())
                });
                bytes.zeroize();
                Ok(Box::new($secret(made?)))
            }

            fn random(&self, length: usize) -> Result<Box<dyn Secret>, MemoryError> {
                let fill = |place: &mut [u8]| Ok(system_random()(place)?);
                Ok(Box::new($secret(Single::new(length, $layout(self), fill)?)))
            }
        }

        impl std::fmt::Debug for $secret {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($secret))
            }
        }
    )*};
}

secrets! {
    ProtectedMemory by ProtectedMemoryFactory, |_: &ProtectedMemoryFactory| Layout::Front;
    GuardedMemory by GuardedMemoryFactory, |factory: &GuardedMemoryFactory| Layout::Rear(factory.on_damage);
}

/// A secret and how many use it.
struct Single {
    length: usize,
    /// Looked at before the lock, which a forked child may find taken.
    process: u64,
    state: Mutex<State>,
}

struct State {
    /// Absent once it is destroyed.
    placed: Option<Placed>,
    users: usize,
    closing: bool,
}

impl Single {
    fn new(
        length: usize,
        layout: Layout,
        fill: impl FnOnce(&mut [u8]) -> Result<(), MemoryError>,
    ) -> Result<Self, MemoryError> {
        let mut placed = Placed::new(length, layout)?;
        fill(placed.bytes_mut().expect("new pages are writable"))?;
        placed.protect(Access::None)?;
        placed.check()?;
        let process = placed.process();
        Ok(Self { length, process, state: Mutex::new(State { placed: Some(placed), users: 0, closing: false }) })
    }

    #[expect(unsafe_code, reason = "the pages outlive the lock, since they have a user")]
    fn with_bytes(&self, work: &mut dyn FnMut(&[u8])) -> Result<(), MemoryError> {
        let mut state = self.state()?;
        if state.closing {
            return Err(MemoryError::Closed);
        }
        let first = state.users == 0;
        let placed = state.placed.as_mut().ok_or(MemoryError::Closed)?;
        placed.check()?;
        if first {
            placed.protect(Access::Read)?;
        }
        let start = placed.start();
        state.users += 1;
        drop(state);
        let user = User { secret: self, ended: false };
        // SAFETY: the pages are readable, and stay mapped and so until the last user is gone; nothing writes to them but a wipe
        // of everything, after which what was made of them is discarded.
        work(unsafe { std::slice::from_raw_parts(start, self.length) });
        user.end()
    }

    /// Ends a use: the last one makes the pages inaccessible, or destroys what is to be closed.
    fn leave(&self) -> Result<(), MemoryError> {
        let mut state = self.state()?;
        let state = &mut *state;
        state.users -= 1;
        let Some(placed) = state.placed.as_mut() else { return Err(MemoryError::Closed) };
        let intact = placed.check();
        if state.users > 0 {
            return intact;
        }
        let hidden = if state.closing { Ok(()) } else { placed.protect(Access::None) };
        // Nothing that stays readable is kept.
        state.closing |= hidden.is_err();
        let destroyed = if state.closing { state.destroy() } else { Ok(()) };
        intact.and(hidden).and(destroyed)
    }

    fn is_closed(&self) -> bool {
        self.state()
            .ok()
            .is_none_or(|state| state.closing || state.placed.as_ref().is_none_or(|placed| placed.check().is_err()))
    }

    fn close(&self) -> Result<(), MemoryError> {
        let mut state = self.state()?;
        state.closing = true;
        if state.users == 0 { state.destroy() } else { Ok(()) }
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, MemoryError> {
        if self.process != process::current() {
            return Err(MemoryError::Forked);
        }
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn destroy(&mut self) -> Result<(), MemoryError> {
        self.placed.take().map_or(Ok(()), Placed::destroy)
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        if let Err(error) = self.close()
            && !matches!(error, MemoryError::Forked)
        {
            tracing::warn!(%error, "a secret did not close in order");
        }
    }
}

/// A use of a secret, which ends also when it panics.
struct User<'a> {
    secret: &'a Single,
    ended: bool,
}

impl User<'_> {
    fn end(mut self) -> Result<(), MemoryError> {
        self.ended = true;
        self.secret.leave()
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // The panic is what is told.
            let _ = self.secret.leave();
        }
    }
}
