//! What the ring and the keys in it are published with, made of loom's primitives.

pub use loom::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use loom::sync::Mutex;

pub type ArcSwap<T> = Swap<Arc<T>>;
pub type ArcSwapOption<T> = Swap<Option<Arc<T>>>;

/// A pointer that is read or changed in one step.
pub struct Swap<P> {
    pointer: Mutex<P>,
}

pub struct Guard<P>(P);

impl<P> Deref for Guard<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.0
    }
}

pub trait Pointer: Clone {
    fn is_same(&self, other: &Self) -> bool;
}

impl<T> Pointer for Arc<T> {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
}

impl<T> Pointer for Option<Arc<T>> {
    fn is_same(&self, other: &Self) -> bool {
        self.as_ref().map(Arc::as_ptr) == other.as_ref().map(Arc::as_ptr)
    }
}

impl<P: Pointer> Swap<P> {
    fn new(pointer: P) -> Self {
        Self { pointer: Mutex::new(pointer) }
    }

    pub fn load_full(&self) -> P {
        self.pointer.lock().expect("nobody panics").clone()
    }

    pub fn load(&self) -> Guard<P> {
        Guard(self.load_full())
    }

    pub fn store(&self, new: P) {
        let old = std::mem::replace(&mut *self.pointer.lock().expect("nobody panics"), new);
        drop(old);
    }

    pub fn compare_and_swap(&self, current: &P, new: P) -> Guard<P> {
        let mut pointer = self.pointer.lock().expect("nobody panics");
        let found = pointer.clone();
        if found.is_same(current) {
            *pointer = new;
        }
        Guard(found)
    }

    pub fn rcu<R: Into<P::Target>>(&self, mut change: impl FnMut(&P) -> R) -> P
    where
        P: Deref + From<P::Target>,
        P::Target: Sized,
    {
        let mut current = self.load_full();
        loop {
            let found = self.compare_and_swap(&current, change(&current).into().into());
            if found.is_same(&current) {
                return current;
            }
            current = found.0;
        }
    }
}

impl<T> ArcSwapOption<T> {
    pub fn empty() -> Self {
        Self::new(None)
    }
}

impl<T: Default> Default for ArcSwap<T> {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl<P> fmt::Debug for Swap<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Swap")
    }
}
