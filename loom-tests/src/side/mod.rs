//! What an end of the ring sees of the world: its doorbells, its peer's life, and one word that
//! stands for the filesystem.

use core::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
mod model;
#[cfg(loom)]
pub use model::{Side, World, run_model};

#[cfg(not(loom))]
mod native;
#[cfg(not(loom))]
pub use native::{FD_COUNT, Side, World};

/// Why [`Side::wait`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    /// The doorbell was rung.
    Rung,
    /// The other end is gone and will not ring again.
    PeerGone,
}

/// What the ends count for the check after the run. Not part of the model: these orderings order
/// nothing.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Tally {
    rings: AtomicU64,
    arms: AtomicU64,
    popped: AtomicU64,
    pushed: AtomicU64,
}

impl Tally {
    /// Counts a ring of the doorbell.
    pub fn count_ring(&self) {
        self.rings.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a consumer that asked to be woken.
    pub fn count_arm(&self) {
        self.arms.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a record that was released.
    pub fn count_popped(&self) {
        self.popped.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a record that was published.
    pub fn count_pushed(&self) {
        self.pushed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how often the doorbell was rung.
    #[must_use]
    pub fn rings(&self) -> u64 {
        self.rings.load(Ordering::Relaxed)
    }

    /// Returns how often a consumer asked to be woken.
    #[must_use]
    pub fn arms(&self) -> u64 {
        self.arms.load(Ordering::Relaxed)
    }

    /// Returns how many records were released.
    #[must_use]
    pub fn popped(&self) -> u64 {
        self.popped.load(Ordering::Relaxed)
    }

    /// Returns how many records were published.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.pushed.load(Ordering::Relaxed)
    }
}
