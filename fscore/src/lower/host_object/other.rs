//! What `linux.rs` has, for systems without `O_PATH`.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Result;

use crate::lower::beneath;

/// An object of the host that stays the same one whatever happens to its name. It is opened for
/// reading, but not waited for.
#[derive(Debug)]
pub struct HostObject(OwnedFd);

impl HostObject {
    /// Finds what has this name; the empty name is the directory itself.
    ///
    /// # Errors
    ///
    /// Those of open(2).
    pub fn at(dir: impl AsFd, name: &[u8]) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        Ok(Self(beneath::open_on_mount(dir, name, flags)?))
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
    /// Those of fchown(2).
    pub fn set_owner(&self, uid: Uid, gid: Gid) -> Result<()> {
        rustix::fs::fchown(&self.0, Some(uid), Some(gid))
    }

    /// Sets the permissions.
    ///
    /// # Errors
    ///
    /// Those of fchmod(2).
    pub fn set_mode(&self, mode: Mode) -> Result<()> {
        rustix::fs::fchmod(&self.0, mode)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    ///
    /// Those of fsetxattr(2).
    pub fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<()> {
        rustix::fs::fsetxattr(&self.0, name, value, XattrFlags::empty())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    ///
    /// Those of fremovexattr(2).
    pub fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        rustix::fs::fremovexattr(&self.0, name)
    }

    /// Returns the value of an extended attribute.
    ///
    /// # Errors
    ///
    /// Those of fgetxattr(2).
    pub fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::fgetxattr(&self.0, name, value.as_mut_slice())?;
        value.truncate(len);
        Ok(value)
    }
}
