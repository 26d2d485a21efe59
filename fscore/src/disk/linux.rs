//! Linux: copy_file_range(2), and fallocate(2) with `FALLOC_FL_PUNCH_HOLE`.

use std::ops::Range;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::FallocateFlags;

use crate::model::errno::Result;

/// Returns the blocks of a range to the filesystem.
pub(super) fn punch(fd: &OwnedFd, range: Range<u64>) -> rustix::io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(fd, flags, range.start, range.end - range.start)
}

/// Has the kernel copy bytes from one file to another.
pub(super) fn copy_range(
    from: BorrowedFd<'_>,
    mut from_offset: u64,
    to: &OwnedFd,
    mut to_offset: u64,
    len: usize,
) -> rustix::io::Result<usize> {
    rustix::fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), len)
}

/// Returns random bytes: getrandom(2).
pub(crate) fn random_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    Ok(id)
}
