//! What `linux.rs` has, for systems without `O_PATH` and statx(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentfs_core::beneath;
use rustix::fs::{Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags};

/// How a directory is opened of which only names are used.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// An object of the host that stays the same one whatever happens to its name. It is opened for
/// reading, but not waited for.
#[derive(Debug)]
pub(crate) struct HostObject(OwnedFd);

impl HostObject {
    /// Finds what has this name; the empty name is the directory itself.
    pub(crate) fn at(dir: impl AsFd, name: &[u8]) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        Ok(Self(beneath::open_on_mount(dir, name, flags)?))
    }

    pub(crate) fn stat(&self) -> io::Result<rustix::fs::Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    pub(crate) fn set_owner(&self, uid: Uid, gid: Gid) -> io::Result<()> {
        Ok(rustix::fs::fchown(&self.0, Some(uid), Some(gid))?)
    }

    pub(crate) fn set_mode(&self, mode: Mode) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.0, mode)?)
    }

    pub(crate) fn set_xattr(&self, name: &[u8], value: &[u8]) -> io::Result<()> {
        let flags = XattrFlags::empty();
        Ok(rustix::fs::fsetxattr(&self.0, name, value, flags)?)
    }

    pub(crate) fn xattr(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::fgetxattr(&self.0, name, value.as_mut_slice())?;
        value.truncate(len);
        Ok(value)
    }
}

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

/// Returns nothing: the time of creation is not asked for here.
pub(crate) fn birth_time(_: BorrowedFd<'_>, _: &[u8]) -> Option<i64> {
    None
}
