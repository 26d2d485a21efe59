//! Renames that replace nothing.

use std::os::fd::AsFd;

use rustix::fs::RenameFlags;

/// Renames to a name that must be free.
pub(crate) fn rename_between(
    from_dir: impl AsFd,
    from: &[u8],
    to_dir: impl AsFd,
    to: &[u8],
) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(from_dir, from, to_dir, to, RenameFlags::NOREPLACE)
}
