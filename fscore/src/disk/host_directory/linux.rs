//! Linux: fallocate(2), fdatasync(2), and the boot's number from proc.

use std::ops::Range;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::FallocateFlags;
use rustix::io::Result;

pub(super) fn allocate(fd: BorrowedFd<'_>, range: Range<u64>) -> Result<()> {
    let len = range.end - range.start;
    rustix::fs::fallocate(fd, FallocateFlags::empty(), range.start, len)
}

/// Returns whether the filesystem writes a mapped page to the blocks that were reserved for it, so
/// that it has no reason to refuse the page: ext2 to ext4, XFS and tmpfs. What overlayfs shows is a
/// file of another filesystem, nearly always of one of these.
pub(super) fn writes_in_place(fd: impl AsFd) -> bool {
    const EXT: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const TMPFS: u64 = 0x0102_1994;
    const OVERLAY: u64 = 0x794c_7630;
    let kind = rustix::fs::fstatfs(fd).map(|stat| u64::try_from(stat.f_type));
    matches!(kind, Ok(Ok(EXT | XFS | TMPFS | OVERLAY)))
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
