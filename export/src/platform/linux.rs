//! What the host is asked in a way of its own on Linux. `other.rs` has the same names.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use agentfs_core::beneath;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, StatxFlags, Uid, XattrFlags};

/// How a directory is opened of which only names are used.
pub(crate) const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// An object of the host that stays the same one whatever happens to its name. It is not opened for
/// reading, so no FIFO waits and no device is woken.
#[derive(Debug)]
pub(crate) struct HostObject(OwnedFd);

impl HostObject {
    /// Finds what has this name; the empty name is the directory itself.
    pub(crate) fn at(dir: impl AsFd, name: &[u8]) -> io::Result<Self> {
        Ok(Self(beneath::open_on_mount(dir, name, OFlags::PATH)?))
    }

    /// Returns a path that leads to the object and to nothing else (proc_pid_fd(5)).
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    pub(crate) fn stat(&self) -> io::Result<rustix::fs::Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    pub(crate) fn set_owner(&self, uid: Uid, gid: Gid) -> io::Result<()> {
        let flags = AtFlags::EMPTY_PATH;
        Ok(rustix::fs::chownat(
            &self.0,
            c"",
            Some(uid),
            Some(gid),
            flags,
        )?)
    }

    pub(crate) fn set_mode(&self, mode: Mode) -> io::Result<()> {
        Ok(rustix::fs::chmod(self.path(), mode)?)
    }

    pub(crate) fn set_xattr(&self, name: &[u8], value: &[u8]) -> io::Result<()> {
        let flags = XattrFlags::empty();
        Ok(rustix::fs::setxattr(self.path(), name, value, flags)?)
    }

    pub(crate) fn xattr(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::getxattr(self.path(), name, value.as_mut_slice())?;
        value.truncate(len);
        Ok(value)
    }
}

/// Returns when an object was created, where the filesystem records it (statx(2)).
pub(crate) fn birth_time(dir: BorrowedFd<'_>, name: &[u8]) -> Option<i64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let found = rustix::fs::statx(dir, name, flags, StatxFlags::BTIME).ok()?;
    let has_time = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    let time = found.stx_btime;
    let nanos = time.tv_sec.saturating_mul(1_000_000_000);
    has_time.then(|| nanos.saturating_add(i64::from(time.tv_nsec)))
}
