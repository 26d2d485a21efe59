//! What every hook puts around its work: errno is kept, and no panic leaves the library.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. libc (errno(3)): the location of errno is a valid, aligned `int` of the calling thread for as long
//!    as the thread lives, and no other thread uses it. A signal handler of the same thread may, but it
//!    runs to its end between two instructions, so the accesses do not overlap.
#![expect(unsafe_code, reason = "errno is reached through a pointer")]

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::platform;

/// Counts panics that were kept from the program. They are reported nowhere: the shim prints nothing.
pub(crate) static PANICS: AtomicU64 = AtomicU64::new(0);

/// Runs `work` with errno as it was before and after. Returns `None` when it panicked.
pub(crate) fn guarded<R>(work: impl FnOnce() -> R) -> Option<R> {
    let before = errno();
    let result = caught(work);
    set_errno(before);
    result
}

/// Runs `work`, which looks after errno itself. Returns `None` when it panicked.
#[inline]
pub(crate) fn caught<R>(work: impl FnOnce() -> R) -> Option<R> {
    let result = catch_unwind(AssertUnwindSafe(work));
    if result.is_err() {
        // Relaxed: a counter.
        PANICS.fetch_add(1, Ordering::Relaxed);
    }
    result.ok()
}

/// Returns this thread's errno.
pub(crate) fn errno() -> c_int {
    // SAFETY: 1: valid and aligned for a read, and written by nobody meanwhile.
    unsafe { *platform::errno_location() }
}

/// Sets this thread's errno.
pub(crate) fn set_errno(value: c_int) {
    // SAFETY: 1: valid and aligned for a write, and used by nobody meanwhile.
    unsafe { *platform::errno_location() = value };
}
