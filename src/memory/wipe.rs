//! Wiping everything at once, from anywhere: a signal handler, a crash, the end of the process.
//!
//! Every range that holds secrets has an entry in a list that only grows and is read without locks or allocation. An entry
//! is a range and a state; whoever changes the state first, the owner who gives the range back or the wiper, goes first.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use zeroize::Zeroize;

use super::control::Header;
use super::{process, sys};

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const LIVE: u32 = 2;
const WIPING: u32 = 3;
const WIPED: u32 = 4;
const RETIRING: u32 = 5;
/// Live, and its owner is changing what may be done with the pages.
const CHANGING: u32 = 6;
/// As before, and a wiper waits for the end of the change.
const LAST_CHANGE: u32 = 7;
/// That change has ended: it is the wiper's turn, and no other change begins.
const CHANGED: u32 = 8;

/// What a wipe of everything found and zeroed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wiped {
    /// Ranges of pages.
    pub ranges: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Ranges that could not be made writable.
    pub failed: usize,
}

/// Wipes every secret of the process at once: arenas, buffers, secrets, and the keys that enclaves and streams are sealed
/// under. Everything that exists is then closed for good; what is made later works.
///
/// Lock-free and without allocation, so it may be called from a signal handler; idempotent. Operations under way notice
/// and end in [`MemoryError::Closed`](crate::MemoryError::Closed), their output discarded. Takes about a millisecond per
/// 8 MiB.
///
/// Returns when wipes of other threads have ended as well.
///
/// There is no list of objects to be told: the wipe walks the same words that arbitrate every use.
pub fn purge() -> Wiped {
    // A fork may have been made while another thread of its parent was wiping.
    let here = process::current();
    if WIPERS_PROCESS.swap(here, Ordering::AcqRel) != here {
        WIPERS.store(0, Ordering::Release);
    }
    WIPERS.fetch_add(1, Ordering::AcqRel);
    let wiped = wipe_all(here);
    WIPERS.fetch_sub(1, Ordering::AcqRel);
    // What another thread has begun to wipe was passed by, and whoever returns first may end the process under its hands.
    within(PATIENCE_WITH_WIPERS, || WIPERS.load(Ordering::Acquire) == 0);
    wiped
}

/// How many threads are wiping, and in which process.
static WIPERS: AtomicUsize = AtomicUsize::new(0);
static WIPERS_PROCESS: AtomicU64 = AtomicU64::new(0);

/// A wipe takes a millisecond per 8 MiB, and what it waits for owners; a crash in the middle of one would wait for itself.
const PATIENCE_WITH_WIPERS: Duration = Duration::from_secs(1);

fn wipe_all(here: u64) -> Wiped {
    let mut wiped = Wiped::default();
    let own = |entry: &&Entry| entry.process.load(Ordering::Relaxed) == here;
    entries().filter(own).for_each(|entry| entry.wipe(&mut wiped));
    entries().filter(own).for_each(Entry::wipe_again);
    wiped
}

/// Returns all entries, used or not.
#[expect(unsafe_code, reason = "a list without locks")]
fn entries() -> impl Iterator<Item = &'static Entry> {
    // SAFETY: chunks are leaked when they are published, so they live as long as the process.
    let at = |chunk: &AtomicPtr<Chunk>| unsafe { chunk.load(Ordering::Acquire).as_ref() };
    std::iter::successors(at(&CHUNKS), move |chunk| at(&chunk.next)).flat_map(|chunk| &chunk.entries)
}

/// Has a handler make every arena dead in the children that fork(3) makes from now on, as control words in pages that the
/// system zeroes are by themselves.
///
/// # Errors
/// When the system has no room for another handler.
pub(super) fn kill_arenas_in_forks() -> io::Result<()> {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    // A handler that is registered twice does the same twice, so whoever comes second need not wait for the first.
    if !REGISTERED.load(Ordering::Acquire) {
        sys::at_fork(kill_arenas)?;
        REGISTERED.store(true, Ordering::Release);
    }
    Ok(())
}

/// Runs in a forked child before anything else does: lock-free and without allocation.
#[expect(unsafe_code, reason = "the type that fork handlers have")]
unsafe extern "C" fn kill_arenas() {
    entries().for_each(Entry::kill);
}

/// A range that [`purge`] wipes; taken out of the list when dropped, which comes before the range is unmapped.
#[derive(Debug)]
pub(super) struct Wipeable {
    entry: &'static Entry,
}

impl Wipeable {
    /// Enters a range of writable, or inaccessible, private pages.
    pub(super) fn register(start: NonNull<u8>, bytes: usize) -> Self {
        Self::enter(start, bytes, None, ptr::null_mut())
    }

    /// Enters the slots of an arena: readers are warned by its control words before the range is wiped, and the read-only
    /// view of it, if there is one, becomes inaccessible.
    pub(super) fn register_arena(start: NonNull<u8>, bytes: usize, view: Option<NonNull<u8>>, header: &Header) -> Self {
        Self::enter(start, bytes, view, ptr::from_ref(header).cast_mut())
    }

    fn enter(start: NonNull<u8>, bytes: usize, view: Option<NonNull<u8>>, header: *mut Header) -> Self {
        let entry = free_entry();
        entry.start.store(start.as_ptr(), Ordering::Relaxed);
        entry.bytes.store(bytes, Ordering::Relaxed);
        entry.view.store(view.map_or(ptr::null_mut(), NonNull::as_ptr), Ordering::Relaxed);
        entry.header.store(header, Ordering::Relaxed);
        entry.process.store(process::current(), Ordering::Relaxed);
        entry.state.store(LIVE, Ordering::Release);
        Self { entry }
    }

    /// Tells whether the range was not wiped; asked after a use, it tells whether the use saw what it should.
    pub(super) fn is_live(&self) -> bool {
        // Pairs with the fence in `wipe`: whoever read a zero written after it sees the new state here.
        fence(Ordering::Acquire);
        matches!(self.entry.state.load(Ordering::Relaxed), LIVE | CHANGING)
    }

    /// Runs `change`, which changes what may be done with the pages, unless they are being wiped or were: a wipe would fault
    /// where they become inaccessible under it.
    pub(super) fn change<R>(&self, change: impl FnOnce() -> R) -> Option<R> {
        let state = &self.entry.state;
        state.compare_exchange(LIVE, CHANGING, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        let done = change();
        if state.compare_exchange(CHANGING, LIVE, Ordering::Release, Ordering::Relaxed).is_err() {
            // Unless the wiper has lost its patience.
            let _ = state.compare_exchange(LAST_CHANGE, CHANGED, Ordering::Release, Ordering::Relaxed);
        }
        Some(done)
    }
}

impl Drop for Wipeable {
    fn drop(&mut self) {
        if self.entry.process.load(Ordering::Relaxed) != process::current() {
            return;
        }
        let retired = |now| (now == LIVE || now == WIPED).then_some(RETIRING);
        // The wiper of another thread has the range for a millisecond at most, and finishes without waiting for anybody.
        while self.entry.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, retired).is_err() {
            std::hint::spin_loop();
        }
        self.entry.state.store(FREE, Ordering::Release);
    }
}

#[derive(Debug)]
struct Entry {
    state: AtomicU32,
    start: AtomicPtr<u8>,
    bytes: AtomicUsize,
    view: AtomicPtr<u8>,
    header: AtomicPtr<Header>,
    /// Which process made the range: a fork leaves its parent's alone.
    process: AtomicU64,
}

impl Entry {
    const fn new() -> Self {
        Self {
            state: AtomicU32::new(FREE),
            start: AtomicPtr::new(ptr::null_mut()),
            bytes: AtomicUsize::new(0),
            view: AtomicPtr::new(ptr::null_mut()),
            header: AtomicPtr::new(ptr::null_mut()),
            process: AtomicU64::new(0),
        }
    }

    /// Makes the control words dead, if this is an arena's.
    #[expect(unsafe_code, reason = "a list without locks")]
    fn kill(&self) {
        // What was being given back when the process forked, or not handed out yet, nobody in the child has.
        if !matches!(self.state.load(Ordering::Acquire), FREE | CLAIMED | RETIRING) {
            // SAFETY: an arena leaves the list before its control words are unmapped, and a child does not unmap them.
            if let Some(header) = unsafe { self.header.load(Ordering::Relaxed).as_ref() } {
                header.die();
            }
        }
    }

    /// Wipes the range, if it is live.
    #[expect(unsafe_code, reason = "wiping by force")]
    fn wipe(&self, wiped: &mut Wiped) {
        if !self.take() {
            return;
        }
        let header = self.header();
        if let Some(header) = header {
            header.poison();
        }
        fence(Ordering::SeqCst);
        let (start, bytes) = self.range();
        // SAFETY: the range is mapped while the state is `WIPING`, and more access disturbs no reader.
        if unsafe { sys::protect(start, bytes, sys::Access::ReadWrite) }.is_ok() {
            // SAFETY: the range is mapped and writable. Owners check the state after each use and discard what they made.
            unsafe { erase(start, bytes) };
            wiped.ranges += 1;
            wiped.bytes += bytes;
        } else {
            wiped.failed += 1;
        }
        if let (Some(view), Some(header)) = (NonNull::new(self.view.load(Ordering::Relaxed)), header) {
            // Readers that look find out; one that does not look shall fault, and not compute with zeroes.
            within(PATIENCE_WITH_READERS, || !header.is_read());
            // SAFETY: the view is mapped, as above.
            let _ = unsafe { sys::protect(view, bytes, sys::Access::None) };
        }
        self.state.store(WIPED, Ordering::Release);
    }

    /// Takes the range to wipe it. Whoever changes its protection at the moment is waited for, and begins no other change; unless
    /// that is this very thread, interrupted by a signal.
    fn take(&self) -> bool {
        let turn = |from, to| self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        let mut taken = false;
        within(PATIENCE_WITH_OWNERS, || {
            taken = turn(LIVE, WIPING) || turn(CHANGED, WIPING);
            let is_live = turn(CHANGING, LAST_CHANGE)
                || matches!(self.state.load(Ordering::Acquire), LIVE | CHANGING | LAST_CHANGE | CHANGED);
            taken || !is_live
        });
        taken || turn(LAST_CHANGE, WIPING) || turn(CHANGED, WIPING)
    }

    /// Wipes what threads that had looked before the first wipe have written since, once they are done.
    #[expect(unsafe_code, reason = "wiping by force")]
    fn wipe_again(&self) {
        if self.state.compare_exchange(WIPED, WIPING, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            return;
        }
        if let Some(header) = self.header() {
            if !header.is_written() {
                self.state.store(WIPED, Ordering::Release);
                return;
            }
            within(PATIENCE_WITH_WRITERS, || !header.is_written());
        }
        let (start, bytes) = self.range();
        // SAFETY: the range is mapped while the state is `WIPING`, and nobody makes it inaccessible once it was wiped.
        if unsafe { sys::protect(start, bytes, sys::Access::ReadWrite) }.is_ok() {
            // SAFETY: as in `wipe`.
            unsafe { erase(start, bytes) };
        }
        self.state.store(WIPED, Ordering::Release);
    }

    #[expect(unsafe_code, reason = "a list without locks")]
    fn header(&self) -> Option<&Header> {
        // SAFETY: an arena leaves the list before its control words are unmapped, and cannot while the state is `WIPING`.
        unsafe { self.header.load(Ordering::Relaxed).as_ref() }
    }

    fn range(&self) -> (NonNull<u8>, usize) {
        let start = NonNull::new(self.start.load(Ordering::Relaxed)).expect("a live entry has a range");
        (start, self.bytes.load(Ordering::Relaxed))
    }
}

/// A reader computes for some hundred nanoseconds, unless the scheduler puts it aside.
const PATIENCE_WITH_READERS: Duration = Duration::from_millis(200);

/// As long as a key takes to be unsealed and used.
const PATIENCE_WITH_WRITERS: Duration = Duration::from_millis(5);

/// A change of protection is one system call, but its thread may have to wait for a busy processor before it and after. Only a
/// wiper that has interrupted that very thread waits for nothing.
const PATIENCE_WITH_OWNERS: Duration = Duration::from_millis(500);

/// Waits until `condition` holds, for a time; clock_gettime(2) and sched_yield(2) may be called in a signal handler.
fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() >= time {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Zeroes a range in a way that is not optimised away.
///
/// # Safety
/// The range must be mapped and writable, and nothing may rely on its contents.
#[expect(unsafe_code, reason = "a range without an exclusive reference")]
pub(super) unsafe fn erase(start: NonNull<u8>, bytes: usize) {
    // SAFETY: writable, says the caller, and plain bytes.
    unsafe { (*ptr::slice_from_raw_parts_mut(start.as_ptr(), bytes)).zeroize() };
}

const CHUNK: usize = 64;

struct Chunk {
    entries: [Entry; CHUNK],
    next: AtomicPtr<Chunk>,
}

static CHUNKS: AtomicPtr<Chunk> = AtomicPtr::new(ptr::null_mut());

/// Claims an entry, making room for more when all are taken.
fn free_entry() -> &'static Entry {
    let claim =
        |entry: &&Entry| entry.state.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok();
    if let Some(entry) = entries().find(claim) {
        return entry;
    }
    let chunk =
        Box::leak(Box::new(Chunk { entries: [const { Entry::new() }; CHUNK], next: AtomicPtr::new(ptr::null_mut()) }));
    chunk.entries[0].state.store(CLAIMED, Ordering::Relaxed);
    let mut first = CHUNKS.load(Ordering::Acquire);
    loop {
        chunk.next.store(first, Ordering::Relaxed);
        match CHUNKS.compare_exchange(first, chunk, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return &chunk.entries[0],
            Err(now) => first = now,
        }
    }
}
