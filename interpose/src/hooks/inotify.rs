//! The calls of inotify(7) but for read.
#![expect(unsafe_code, reason = "functions of the C ABI that programs call")]

use std::ffi::{c_char, c_int};

use crate::config::{Hook, config};
use crate::guard::guarded;
use crate::hooks::by_descriptor;
use crate::inotify;
use crate::real;

/// inotify_init(2)
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn inotify_init() -> c_int {
    // SAFETY: no preconditions.
    made(unsafe { real::inotify_init() })
}

/// inotify_init1(2)
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn inotify_init1(flags: c_int) -> c_int {
    // SAFETY: no preconditions.
    made(unsafe { real::inotify_init1(flags) })
}

fn made(fd: c_int) -> c_int {
    if fd >= 0 && !config().is_off(Hook::Inotify) {
        guarded(|| inotify::made(fd));
    }
    fd
}

/// inotify_add_watch(2)
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn inotify_add_watch(
    fd: c_int,
    path: *const c_char,
    mask: u32,
) -> c_int {
    if config().is_off(Hook::Inotify) {
        // SAFETY: the program's own arguments.
        return unsafe { real::inotify_add_watch(fd, path, mask) };
    }
    // SAFETY: the program's own arguments.
    let object = guarded(|| unsafe { inotify::watching(fd, path, mask) }).flatten();
    // SAFETY: the program's own arguments.
    let wd = unsafe { real::inotify_add_watch(fd, path, mask) };
    if wd >= 0 {
        guarded(|| inotify::watched(fd, object, mask, wd));
    }
    wd
}

by_descriptor! {
    /// inotify_rm_watch(2)
    inotify_rm_watch => INOTIFY_RM_WATCH, rm_watch_owned
}

pub(crate) unsafe extern "C" fn rm_watch_owned(fd: c_int, wd: c_int) -> c_int {
    guarded(|| inotify::unwatching(fd, wd));
    // SAFETY: the program's own arguments.
    unsafe { real::inotify_rm_watch(fd, wd) }
}
