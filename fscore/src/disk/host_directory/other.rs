//! Other Unix systems: nothing is reserved, and no boot has a number, so that every start is taken
//! for one after a power cut.

use std::ops::Range;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::{Errno, Result};

pub(super) fn allocate(_: BorrowedFd<'_>, _: Range<u64>) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// Returns that nothing is mapped here.
pub(super) fn writes_in_place(_: impl AsFd) -> bool {
    false
}

pub(super) fn sync(fd: impl AsFd) -> Result<()> {
    rustix::fs::fsync(fd)
}

pub(super) fn sync_names(fd: impl AsFd) -> Result<()> {
    rustix::fs::fsync(fd)
}

pub(super) fn boot_id() -> Option<String> {
    None
}
