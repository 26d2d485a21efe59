//! The calls of inotify(7) but for read.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. inotify_init(2) and inotify_init1(2) have no precondition: their argument is a number, which the
//!    kernel checks.
//! 2. The program: what it passes to a hook fulfils the man page of the function of that name. The path of
//!    inotify_add_watch(2) may be any pointer, which the kernel checks, and where it is a string the
//!    program does not change or free it during its own call.
#![expect(unsafe_code, reason = "functions of the C ABI that programs call")]

use std::ffi::{c_char, c_int};

use crate::config::{Hook, config};
use crate::guard::guarded;
use crate::hooks::by_descriptor;
use crate::inotify;
use crate::real;

/// Stands for inotify_init(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn inotify_init() -> c_int {
    // SAFETY: 1.
    made(unsafe { real::inotify_init() })
}

/// Stands for inotify_init1(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn inotify_init1(flags: c_int) -> c_int {
    // SAFETY: 1: the very same number.
    made(unsafe { real::inotify_init1(flags) })
}

fn made(fd: c_int) -> c_int {
    if fd >= 0 && !config().is_off(Hook::Inotify) {
        guarded(|| inotify::made(fd));
    }
    fd
}

/// Stands for inotify_add_watch(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn inotify_add_watch(
    fd: c_int,
    path: *const c_char,
    mask: u32,
) -> c_int {
    if config().is_off(Hook::Inotify) {
        // SAFETY: 2: the very same arguments.
        return unsafe { real::inotify_add_watch(fd, path, mask) };
    }
    // SAFETY: 2: the path as it came, inside the program's own call.
    let object = guarded(|| unsafe { inotify::watching(fd, path, mask) }).flatten();
    // SAFETY: 2: the very same arguments.
    let wd = unsafe { real::inotify_add_watch(fd, path, mask) };
    if wd >= 0 {
        guarded(|| inotify::watched(fd, object, mask, wd));
    }
    wd
}

by_descriptor! {
    /// Stands for inotify_rm_watch(2).
    inotify_rm_watch => INOTIFY_RM_WATCH, rm_watch_owned
}

pub(crate) unsafe extern "C" fn rm_watch_owned(fd: c_int, wd: c_int) -> c_int {
    guarded(|| inotify::unwatching(fd, wd));
    // SAFETY: 2: the very same numbers.
    unsafe { real::inotify_rm_watch(fd, wd) }
}
