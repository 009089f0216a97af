//! A mapping of its own for one secret: where the secret stands in it, and the canary before it.

use super::backend::Acquired;
use super::pages::{Access, Pages};
use super::settings::OnDamage;
use super::wipe::{self, Wipeable};
use super::worker::system_random;
use super::{process, sizing, sys};
use crate::error::MemoryError;

/// Where a secret stands in its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// At the start; the slack behind it is zero.
    Front,
    /// At the end, so that the byte behind it is the guard page; the slack before it is a canary.
    Rear(OnDamage),
}

/// A secret in pages of its own, between guard pages.
#[derive(Debug)]
pub(super) struct Placed {
    // Declared before the pages, so that a wipe of everything forgets them before they are unmapped.
    entry: Wipeable,
    pages: Pages,
    layout: Layout,
    offset: usize,
    length: usize,
    canary: [u8; CANARY],
    process: u64,
}

const CANARY: usize = 16;

impl Placed {
    /// Maps room for a secret of `length` bytes, writable and zeroed.
    pub(super) fn new(length: usize, layout: Layout) -> Result<Self, MemoryError> {
        if length == 0 {
            return Err(MemoryError::Empty);
        }
        let Acquired { mut pages, .. } = sizing::acquire_for_one(length)?;
        let offset = if layout == Layout::Front { 0 } else { pages.size() - length };
        let mut canary = [0; CANARY];
        system_random()(&mut canary)?;
        let slack = &mut pages.bytes_mut().ok_or(MemoryError::Forked)?[..offset];
        slack.iter_mut().zip(canary.iter().cycle()).for_each(|(byte, canary)| *byte = *canary);
        let entry = Wipeable::register(pages.start(), pages.size());
        Ok(Self { entry, pages, layout, offset, length, canary, process: process::current() })
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Returns the number of the process that the secret belongs to.
    pub(super) fn process(&self) -> u64 {
        self.process
    }

    /// Fails in a forked child, and when everything was wiped; asked after a use, it tells whether that saw the secret.
    pub(super) fn check(&self) -> Result<(), MemoryError> {
        if self.process != process::current() {
            return Err(MemoryError::Forked);
        }
        if self.entry.is_live() { Ok(()) } else { Err(MemoryError::Closed) }
    }

    pub(super) fn access(&self) -> Access {
        self.pages.access()
    }

    pub(super) fn protect(&mut self, access: Access) -> Result<(), MemoryError> {
        self.entry.change(|| self.pages.protect(access)).unwrap_or(Err(MemoryError::Closed))
    }

    /// Returns the secret, unless its pages are inaccessible.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        Some(&self.pages.bytes()?[self.offset..self.offset + self.length])
    }

    /// Returns the secret for writing, unless its pages are not writable.
    pub(super) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        Some(&mut self.pages.bytes_mut()?[self.offset..self.offset + self.length])
    }

    /// Returns where the secret begins.
    pub(super) fn start(&self) -> *const u8 {
        self.pages.start().as_ptr().wrapping_add(self.offset)
    }

    /// Looks at the canary, wipes everything and gives the pages back.
    ///
    /// Every step is attempted, whatever became of those before it.
    ///
    /// # Errors
    /// That of the first step that failed.
    pub(super) fn destroy(mut self) -> Result<(), MemoryError> {
        if self.check().is_err() {
            // Wiped already, or its parent's.
            drop(self.entry);
            return self.pages.free();
        }
        let writable = self.pages.protect(Access::ReadWrite);
        let intact = self.check_canary();
        if let Some(bytes) = self.pages.bytes_mut() {
            zeroize::Zeroize::zeroize(bytes);
        }
        drop(self.entry);
        let freed = self.pages.free();
        intact.and(writable).and(freed)
    }

    fn check_canary(&self) -> Result<(), MemoryError> {
        let Layout::Rear(on_damage) = self.layout else { return Ok(()) };
        let Some(slack) = self.pages.bytes().map(|bytes| &bytes[..self.offset]) else { return Ok(()) };
        let intact = slack.iter().zip(self.canary.iter().cycle()).all(|(byte, canary)| byte == canary);
        // A wipe of everything that came meanwhile took the canary with it.
        if intact || !self.entry.is_live() {
            return Ok(());
        }
        wipe::purge();
        tracing::error!("memory before a secret was overwritten; all secrets were wiped");
        end_if_asked(on_damage, &"a secret");
        Err(MemoryError::DamagedSecret)
    }
}

/// Ends the process over damage, if that is what is wanted, after everything was wiped.
pub(super) fn end_if_asked(on_damage: OnDamage, place: &dyn std::fmt::Display) {
    if on_damage == OnDamage::Exit {
        eprintln!("keyward: secret memory corrupted at {place}; keys were wiped");
        sys::exit_now(70);
    }
}
