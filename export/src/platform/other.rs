//! What `linux.rs` has, for systems without `O_PATH` and statx(2).

use std::os::fd::BorrowedFd;

use rustix::fs::OFlags;

/// How a directory is opened of which only names are used.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Returns nothing: the time of creation is not asked for here.
pub(crate) fn birth_time(_: BorrowedFd<'_>, _: &[u8]) -> Option<i64> {
    None
}
