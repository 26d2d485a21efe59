//! The flag by which a caller cancels applying.

use std::sync::atomic::{AtomicBool, Ordering};

pub(super) fn is_set(flag: &AtomicBool) -> bool {
    // Relaxed, because only the flag itself is read.
    flag.load(Ordering::Relaxed)
}
