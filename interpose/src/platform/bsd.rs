//! macOS and the BSDs. On the latter the engine of the kqueue side is type-checked and nothing more.
#![expect(unsafe_code, reason = "asks libc where errno is")]

use std::ffi::c_int;

use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

/// Returns where this thread's errno is.
pub(crate) fn errno_location() -> *mut c_int {
    // SAFETY: the function has no precondition.
    unsafe { libc::__error() }
}

/// Returns false: whether a process that still has its number has ended is not known on these systems.
pub(crate) fn has_ended(_pid: Pid) -> bool {
    false
}

/// Returns the seconds since the machine started.
pub(crate) fn seconds() -> u64 {
    u64::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap_or(0)
}
