//! The calls that give a descriptor another number: under both numbers it is the same inotify instance.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The program: what it passes to a hook fulfils the man page of the function of that name; a number
//!    that dup2(2) or dup3(2) replaces is its own to close.
//! 2. The kernel (fcntl(2)): `F_GETFD` looks at a number and at nothing else, and answers EBADF to one
//!    that is not open.
#![expect(unsafe_code, reason = "functions of the C ABI that programs call")]

use std::ffi::c_int;
use std::os::fd::BorrowedFd;

use crate::config::{Hook, config};
use crate::fd_table::{self, Owner};
use crate::guard::guarded;
use crate::hooks::by_descriptor;
use crate::{platform, process, real};

by_descriptor! {
    /// Stands for dup(2).
    dup => DUP, dup_owned
}
by_descriptor! {
    /// Stands for fcntl(2), because of `F_DUPFD`.
    fcntl => FCNTL, fcntl_owned
}
by_descriptor! {
    /// Stands for fcntl(2) in a program built for large files.
    fcntl64 => FCNTL64, fcntl_owned
}

pub(crate) unsafe extern "C" fn dup_owned(fd: c_int) -> c_int {
    // SAFETY: 1: the very same number.
    duplicated(fd, unsafe { real::dup(fd) })
}

pub(crate) unsafe extern "C" fn fcntl_owned(fd: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: 1: the very same arguments; the third is passed as the register that holds it.
    let result = unsafe { real::fcntl(fd, command, argument) };
    if matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) {
        duplicated(fd, result)
    } else {
        result
    }
}

fn duplicated(from: c_int, to: c_int) -> c_int {
    if to >= 0 && from != to && is_concerned() {
        guarded(|| platform::duplicated(from, to));
    }
    to
}

fn is_concerned() -> bool {
    !config().is_off(Hook::Dup) && process::owns_state()
}

/// Stands for dup2(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn dup2(from: c_int, to: c_int) -> c_int {
    if are_foreign(from, to) || !is_concerned() {
        // SAFETY: 1: the very same numbers.
        return unsafe { real::dup2(from, to) };
    }
    replacing(from, to);
    // SAFETY: 1: the very same numbers. A `to` that was ours has been vacated.
    duplicated(from, unsafe { real::dup2(from, to) })
}

/// Stands for dup3(2).
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int {
    let is_refused = flags & !libc::O_CLOEXEC != 0;
    if is_refused || are_foreign(from, to) || !is_concerned() {
        // SAFETY: 1: the very same arguments.
        return unsafe { real::dup3(from, to, flags) };
    }
    replacing(from, to);
    // SAFETY: 1: the very same arguments. A `to` that was ours has been vacated.
    duplicated(from, unsafe { real::dup3(from, to, flags) })
}

fn are_foreign(from: c_int, to: c_int) -> bool {
    fd_table::get(from) == Owner::Foreign && fd_table::get(to) == Owner::Foreign
}

/// Notes that `to` is about to be closed, unless `from` is not open. When `to` is one that the shim
/// opened, the program takes the number away from us: every use of it looks first, and notices.
fn replacing(from: c_int, to: c_int) {
    if from != to && is_open(from) {
        guarded(|| {
            crate::kqueue::vacate(to);
            platform::closing(to);
        });
    }
}

fn is_open(fd: c_int) -> bool {
    // SAFETY: 2: not -1, and borrowed for one F_GETFD, which asks whether it is open and needs no more.
    fd >= 0 && rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) }).is_ok()
}
