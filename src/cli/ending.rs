//! What a command does when a signal ends it.

use std::sync::{Arc, Mutex, PoisonError};

#[cfg(unix)]
use keyward::memory::signals::{self, Shutdown, SignalSettings};
use keyward::{MemoryError, SessionFactory};

use super::open::block_on;
use super::run::say_plainly;

/// Undoes what a command has begun when a signal ends it; keys are wiped whatever is undone.
pub(super) struct Ending {
    #[cfg(unix)]
    shutdown: Shutdown,
}

impl Ending {
    /// Takes over what signals do to this process; to be called while there is no other thread.
    ///
    /// # Errors
    /// [`MemoryError`] when the system refuses.
    pub(super) fn install() -> Result<Self, MemoryError> {
        #[cfg(unix)]
        {
            let shutdown = signals::install(&SignalSettings { drain: DRAIN, ..SignalSettings::default() })?;
            // A command that has begun nothing ends at once.
            shutdown.drain_with(|_| ());
            Ok(Self { shutdown })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Makes something, and has `undo` run on it when a signal ends the command, also when that comes while it is made.
    ///
    /// # Errors
    /// Those of `make`; there is nothing to undo then.
    pub(super) fn undoing<T, E, U: Send + 'static>(
        &self,
        make: impl FnOnce() -> Result<T, E>,
        keep: impl FnOnce(&T) -> U,
        undo: impl FnOnce(U) + Send + 'static,
    ) -> Result<T, E> {
        let place = Arc::new(Mutex::new(None));
        let of_undo = Arc::clone(&place);
        let mut kept = place.lock().unwrap_or_else(PoisonError::into_inner);
        self.undo_with(move || {
            if let Some(made) = of_undo.lock().unwrap_or_else(PoisonError::into_inner).take() {
                undo(made);
            }
        });
        let made = make()?;
        *kept = Some(keep(&made));
        Ok(made)
    }

    /// Has a signal wait for the step under way before it ends the command; what is given to the ending later runs after it.
    pub(super) fn steps(&self) -> Steps {
        let steps = Steps(Arc::default());
        let under_way = Arc::clone(&steps.0);
        self.undo_with(move || {
            // Not given back: no step begins any more.
            std::mem::forget(under_way.lock().unwrap_or_else(PoisonError::into_inner));
        });
        steps
    }

    /// Has a line printed on stderr when a signal ends the command, after what was given to the ending before.
    pub(super) fn tells(&self, line: impl FnOnce() -> String + Send + 'static) {
        self.undo_with(move || say_plainly(&format!("keyward: {}\n", line())));
    }

    /// Has `undo` run when a signal ends the command, on another thread.
    fn undo_with(&self, undo: impl FnOnce() + Send + 'static) {
        #[cfg(unix)]
        self.shutdown.drain_with(|_| undo());
        #[cfg(not(unix))]
        let _ = undo;
    }

    /// Has `factory` closed when a signal ends the command: operations under way end, keys are wiped.
    pub(super) fn close_with(&self, factory: &SessionFactory) {
        let factory = factory.clone();
        self.undo_with(move || {
            // The process ends whatever comes of it, and wipes everything first.
            let _ = block_on(async { Ok(factory.close().await?) });
        });
    }

    /// Tells whether a signal is ending the command: what fails then is no failure to tell of.
    pub(super) fn has_begun(&self) -> bool {
        #[cfg(unix)]
        return self.shutdown.is_requested().is_some();
        #[cfg(not(unix))]
        false
    }

    /// Leaves the end of the process, and its exit code, to the signal that has begun it; returns when there is none.
    pub(super) fn takes_over(&self) {
        while self.has_begun() {
            std::thread::park();
        }
    }
}

/// Work in steps that a signal does not cut in two, unless one takes longer than a command may take to end.
pub(super) struct Steps(Arc<Mutex<()>>);

impl Steps {
    /// Takes a step; once a signal has come, waits for the end of the process instead.
    pub(super) fn take<R>(&self, step: impl FnOnce() -> R) -> R {
        let _under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        step()
    }
}

/// How long a command may take to end after a signal; the second signal ends it at once.
#[cfg(unix)]
const DRAIN: std::time::Duration = std::time::Duration::from_secs(5);
