//! What the host is asked in a way of its own on Linux. `other.rs` has the same names.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, OFlags, StatxFlags};

/// How a directory is opened of which only names are used.
pub(crate) const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// Returns when an object was created, where the filesystem records it (statx(2)).
pub(crate) fn birth_time(dir: BorrowedFd<'_>, name: &[u8]) -> Option<i64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let found = rustix::fs::statx(dir, name, flags, StatxFlags::BTIME).ok()?;
    let has_time = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    let time = found.stx_btime;
    let nanos = time.tv_sec.saturating_mul(1_000_000_000);
    has_time.then(|| nanos.saturating_add(i64::from(time.tv_nsec)))
}
