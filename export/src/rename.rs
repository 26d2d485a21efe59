//! Renames that replace nothing, and exchanges.

use std::os::fd::AsFd;

use rustix::fs::RenameFlags;

/// Renames to a name that must be free.
pub(crate) fn rename_new(dir: impl AsFd, from: &[u8], to: &[u8]) -> rustix::io::Result<()> {
    rename_between(&dir, from, &dir, to)
}

/// Renames from one directory to another as [`rename_new`] does within one.
pub(crate) fn rename_between(
    from_dir: impl AsFd,
    from: &[u8],
    to_dir: impl AsFd,
    to: &[u8],
) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(from_dir, from, to_dir, to, RenameFlags::NOREPLACE)
}

/// Lets two names of a directory take each other's place.
pub(crate) fn exchange(dir: impl AsFd, one: &[u8], other: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(&dir, one, &dir, other, RenameFlags::EXCHANGE)
}
