//! Linux: fallocate(2), fdatasync(2), and the boot's number from proc.

use std::ops::Range;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::FallocateFlags;
use rustix::io::Result;

pub(super) fn allocate(fd: BorrowedFd<'_>, range: Range<u64>) -> Result<()> {
    let len = range.end - range.start;
    rustix::fs::fallocate(fd, FallocateFlags::empty(), range.start, len)
}

/// Writes the bytes, and of the attributes only the length.
pub(super) fn sync(fd: impl AsFd) -> Result<()> {
    rustix::fs::fdatasync(fd)
}

pub(super) fn sync_names(fd: impl AsFd) -> Result<()> {
    rustix::fs::fsync(fd)
}

pub(super) fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}
