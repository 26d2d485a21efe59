//! Systems without copy_file_range(2) or holes that can be punched.

use std::ops::Range;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

use crate::model::errno::{Errno, Result};

/// Leaves the blocks of a range where they are: they are used again.
pub(super) fn punch(_: &OwnedFd, _: Range<u64>) -> rustix::io::Result<()> {
    Ok(())
}

/// Copies nothing: the caller reads and writes.
pub(super) fn copy_range(
    _: BorrowedFd<'_>,
    _: u64,
    _: &OwnedFd,
    _: u64,
    _: usize,
) -> rustix::io::Result<usize> {
    Err(rustix::io::Errno::NOSYS)
}

/// Returns random bytes: random(4).
pub(crate) fn random_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    let source = rustix::fs::open(
        "/dev/urandom",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let read = rustix::io::read(&source, &mut id)?;
    if read == id.len() {
        Ok(id)
    } else {
        Err(Errno::EIO)
    }
}
