//! The seam between the ring and the machine: the only file that names an atomic type. Under
//! `--cfg loom` the same algorithm runs on loom's atomics, which explore every interleaving with a bounded
//! number of preemptions, and every value a weak memory model allows a load to return.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
