//! What `linux.rs` has, for systems without `O_PATH` and statx(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentfs_core::beneath;
use rustix::fs::{Gid, Mode, OFlags, Uid, XattrFlags};

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

/// Returns nothing: the time of creation is not asked for here.
pub(crate) fn birth_time(_: BorrowedFd<'_>, _: &[u8]) -> Option<i64> {
    None
}
