//! An object of the host that is held without being opened. `other.rs` has the same names.

use std::os::fd::AsRawFd as _;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Result;

use crate::lower::beneath;

/// An object of the host that stays the same one whatever happens to its name. It is not opened for
/// reading, so no FIFO waits and no device is woken.
#[derive(Debug)]
pub struct HostObject(OwnedFd);

impl HostObject {
    /// Finds what has this name; the empty name is the directory itself.
    ///
    /// # Errors
    ///
    /// Those of openat2(2); `EXDEV` where something is mounted.
    pub fn at(dir: impl AsFd, name: &[u8]) -> Result<Self> {
        Ok(Self(beneath::open_on_mount(dir, name, OFlags::PATH)?))
    }

    /// Returns a path that leads to the object and to nothing else (proc_pid_fd(5)).
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// Returns what stat(2) says of the object.
    ///
    /// # Errors
    ///
    /// Those of fstat(2).
    pub fn stat(&self) -> Result<Stat> {
        rustix::fs::fstat(&self.0)
    }

    /// Sets the owner and the group.
    ///
    /// # Errors
    ///
    /// Those of chown(2).
    pub fn set_owner(&self, uid: Uid, gid: Gid) -> Result<()> {
        let flags = AtFlags::EMPTY_PATH;
        rustix::fs::chownat(&self.0, c"", Some(uid), Some(gid), flags)
    }

    /// Sets the permissions.
    ///
    /// # Errors
    ///
    /// Those of chmod(2).
    pub fn set_mode(&self, mode: Mode) -> Result<()> {
        rustix::fs::chmod(self.path(), mode)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    ///
    /// Those of setxattr(2).
    pub fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        rustix::fs::setxattr(self.path(), name, value, XattrFlags::empty())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    ///
    /// Those of removexattr(2).
    pub fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        rustix::fs::removexattr(self.path(), name)
    }

    /// Returns the value of an extended attribute.
    ///
    /// # Errors
    ///
    /// Those of getxattr(2).
    pub fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::getxattr(self.path(), name, value.as_mut_slice())?;
        value.truncate(len);
        Ok(value)
    }
}
