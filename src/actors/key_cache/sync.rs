//! What is published with, and noted in, by whoever looks at keys; the model test puts loom's in their place.

pub(super) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

pub(super) use arc_swap::{ArcSwap, ArcSwapOption};
