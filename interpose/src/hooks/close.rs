//! The ways to close a descriptor. What the shim opened for itself does not exist for the program:
//! closing it fails with EBADF, and closing a range spares it.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The program: the numbers that it passes to a hook are its own to close, as close(2), close_range(2)
//!    and closefrom(3) ask of whoever closes a descriptor that other code may use.
//! 2. Our own: what the shim has opened is [`Owner::Hidden`] in the table, and is not handed on to the
//!    original: neither as a number nor as part of a range. A part of a range of 1 is the program's, too.
#![expect(unsafe_code, reason = "functions of the C ABI that programs call")]

use std::ffi::{c_int, c_uint};

use crate::config::{Hook, config};
use crate::fd_table::{self, Owner};
use crate::guard::{self, guarded};
use crate::hooks::by_descriptor;
use crate::{platform, process, real};

by_descriptor! {
    /// Stands for close(2).
    close => CLOSE, close_owned
}
by_descriptor! {
    /// Stands for close(2) under the name by which some libraries call it.
    __close => DUNDER_CLOSE, close_owned
}

pub(crate) unsafe extern "C" fn close_owned(fd: c_int) -> c_int {
    if !is_concerned() {
        // SAFETY: 1: the very same number. In a child of vfork 2 does not matter: it closes its own copies.
        return unsafe { real::close(fd) };
    }
    if fd_table::get(fd) == Owner::Hidden {
        guard::set_errno(libc::EBADF);
        return -1;
    }
    guarded(|| platform::closing(fd));
    // SAFETY: 1 and 2: the very same number, and not one of ours.
    unsafe { real::close(fd) }
}

/// Returns false in a child of vfork: what it closes is its own copy, and the table is its parent's.
fn is_concerned() -> bool {
    !config().is_off(Hook::Close) && process::owns_state()
}

/// Stands for close_range(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    const CLOSE_RANGE_UNSHARE: c_int = 2;
    // CLOSE_RANGE_CLOEXEC closes nothing now, and ours are close-on-exec already. The kernel refuses any
    // other flag.
    if flags & !CLOSE_RANGE_UNSHARE != 0 || first > last || !is_concerned() {
        // SAFETY: 1: the very same range, of which nothing is closed now, or which is refused, or which is
        // that of a child of vfork.
        return unsafe { real::close_range(first, last, flags) };
    }
    guarded(|| {
        for fd in fd_table::owned_between(first, last) {
            platform::closing(fd.cast_signed());
        }
    });
    let mut from = first;
    for hidden in fd_table::hidden_between(first, last) {
        if hidden > from {
            // SAFETY: 1 and 2: a part of the range, up to the next of ours.
            let result = unsafe { real::close_range(from, hidden - 1, flags) };
            if result != 0 {
                return result;
            }
        }
        from = hidden + 1;
    }
    if from > last {
        return 0;
    }
    // SAFETY: 1 and 2: what is left of the range, behind the last of ours.
    unsafe { real::close_range(from, last, flags) }
}

/// Stands for closefrom(3).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn closefrom(first: c_int) {
    let from = c_uint::try_from(first).unwrap_or(0);
    let is_simple = !is_concerned() || fd_table::hidden_between(from, c_uint::MAX).next().is_none();
    // SAFETY: 1 and 2: the same range for the hook above, which spares ours.
    if is_simple || unsafe { close_range(from, c_uint::MAX, 0) } != 0 {
        guarded(|| {
            for fd in fd_table::owned_between(from, c_uint::MAX) {
                if process::owns_state() {
                    platform::closing(fd.cast_signed());
                }
            }
        });
        // SAFETY: 1: the very same number. There is nothing of ours in the range, or this is a child of
        // vfork, or the kernel has no close_range(2) and ours are lost, which every use of them notices.
        unsafe { real::closefrom(first) };
    }
}
