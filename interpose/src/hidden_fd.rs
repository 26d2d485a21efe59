//! Descriptors that the shim opens for itself in a process that does not know them.
//!
//! They get high numbers, so that the program's own descriptors have the numbers they would have without
//! the shim. They are noted in the table, so that close() does not find them. A program can still take
//! such a number (by a raw system call, or by dup2 onto it), so the shim checks before every use whether
//! the number still is the same file.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. Our own: [`HiddenFd::fd`] came out of an [`OwnedFd`], so it is not -1, and nothing of ours closes
//!    the number but the drop of this one value, which therefore owns the descriptor.
//! 2. The program: what it does not know it does not close, but by a mistake or on purpose, by a raw
//!    system call. Then the number is closed or another file's. A system call on it fails or answers for
//!    that file, as after any such mistake; no memory depends on it.
#![expect(unsafe_code, reason = "borrows a descriptor that was checked")]

use std::os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _, OwnedFd, RawFd};

use rustix::fs::fstat;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};

use crate::fd_table::{self, Owner};

/// Device and inode of an open file. `dev_t` is signed on some systems.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Identity(i128, u64);

fn identity(fd: BorrowedFd<'_>) -> Option<Identity> {
    fstat(fd)
        .ok()
        .map(|stat| Identity(i128::from(stat.st_dev), stat.st_ino))
}

/// A descriptor of the shim. It is closed on drop if the number still is the shim's.
#[derive(Debug)]
pub(crate) struct HiddenFd {
    fd: RawFd,
    identity: Identity,
}

impl HiddenFd {
    /// Hides a descriptor. Returns `None` when there is no number for it.
    pub(crate) fn new(fd: OwnedFd) -> Option<Self> {
        let fd = move_up(fd);
        let identity = identity(std::os::fd::AsFd::as_fd(&fd))?;
        let number = fd.as_raw_fd();
        if !fd_table::set(number, Owner::Hidden) {
            return None;
        }
        Some(Self {
            fd: fd.into_raw_fd(),
            identity,
        })
    }

    /// Returns the descriptor, if the program did not take its number away.
    pub(crate) fn get(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: 1: not -1, and open as long as `self`, which the result borrows. After 2 fstat(2) fails
        // or shows another file, and the result is `None`.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        (identity(fd) == Some(self.identity)).then_some(fd)
    }

    /// Returns its number.
    pub(crate) fn number(&self) -> RawFd {
        self.fd
    }
}

impl Drop for HiddenFd {
    fn drop(&mut self) {
        let is_ours = self.get().is_some();
        if fd_table::get(self.fd) == Owner::Hidden {
            fd_table::set(self.fd, Owner::Foreign);
        }
        if is_ours {
            // SAFETY: 1: `self` owns it and is being dropped, so nobody else will close it. Not taken away
            // as in 2: `get` has just found the very file.
            drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(self.fd) });
        }
    }
}

/// Moves a file to a number in the upper half of those that are allowed.
pub(crate) fn move_up(fd: OwnedFd) -> OwnedFd {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(1024);
    let least = (limit / 2).clamp(16, fd_table::LEN as u64 / 2);
    let least = i32::try_from(least).unwrap_or(16);
    fcntl_dupfd_cloexec(&fd, least).unwrap_or(fd)
}
