//! The ways to close a descriptor. What the shim opened for itself is not there for the program:
//! closing it fails with EBADF, and closing a range spares it.
#![expect(unsafe_code, reason = "functions of the C ABI that programs call")]

use std::ffi::{c_int, c_uint};

use crate::config::{Hook, config};
use crate::fd_table::{self, Owner};
use crate::guard::{self, guarded};
use crate::hooks::by_descriptor;
use crate::{platform, process, real};

by_descriptor! {
    /// close(2)
    close => CLOSE, close_owned
}
by_descriptor! {
    /// The name by which some libraries call it.
    __close => DUNDER_CLOSE, close_owned
}

pub(crate) unsafe extern "C" fn close_owned(fd: c_int) -> c_int {
    if !is_concerned() {
        // SAFETY: the program's own argument.
        return unsafe { real::close(fd) };
    }
    if fd_table::get(fd) == Owner::Hidden {
        guard::set_errno(libc::EBADF);
        return -1;
    }
    guarded(|| platform::closing(fd));
    // SAFETY: the program's own argument.
    unsafe { real::close(fd) }
}

/// Not in a child of vfork: what it closes is its own copy, and the table is its parent's.
fn is_concerned() -> bool {
    !config().is_off(Hook::Close) && process::owns_state()
}

/// close_range(2)
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    const CLOSE_RANGE_UNSHARE: c_int = 2;
    // CLOSE_RANGE_CLOEXEC closes nothing now, and ours are close-on-exec already; what else there is
    // the kernel refuses.
    if flags & !CLOSE_RANGE_UNSHARE != 0 || first > last || !is_concerned() {
        // SAFETY: the program's own arguments.
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
            // SAFETY: a part of the program's own range.
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
    // SAFETY: a part of the program's own range.
    unsafe { real::close_range(from, last, flags) }
}

/// closefrom(3)
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn closefrom(first: c_int) {
    let from = c_uint::try_from(first).unwrap_or(0);
    let is_simple = !is_concerned() || fd_table::hidden_between(from, c_uint::MAX).next().is_none();
    // SAFETY: the program's own range, without ours.
    if is_simple || unsafe { close_range(from, c_uint::MAX, 0) } != 0 {
        guarded(|| {
            for fd in fd_table::owned_between(from, c_uint::MAX) {
                if process::owns_state() {
                    platform::closing(fd.cast_signed());
                }
            }
        });
        // SAFETY: the program's own argument.
        unsafe { real::closefrom(first) };
    }
}
