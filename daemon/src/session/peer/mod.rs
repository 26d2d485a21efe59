//! The process at the other end of a connection.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(target_vendor = "apple", path = "apple.rs")]
#[cfg_attr(
    not(any(target_os = "linux", target_vendor = "apple")),
    path = "other.rs"
)]
mod platform;

use std::io;
use std::os::unix::net::UnixStream;

use agentfs_core::Caller;

/// A connected process, as the kernel knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Peer {
    /// Its process, or 0 where the kernel does not say which it is.
    pub(crate) pid: u32,
    /// Its effective user when it connected.
    pub(crate) uid: u32,
    /// Its effective group.
    pub(crate) gid: u32,
}

impl Peer {
    /// Asks the kernel which process connected.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        platform::peer_of(stream)
    }

    /// Returns whether the process may speak with a daemon of this user: it is the user's, or root's.
    pub(crate) fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }

    /// Returns the process as the filesystem's permission checks see it.
    pub(crate) fn caller(self) -> Caller {
        Caller::new(self.uid, self.gid).with_pid(self.pid)
    }
}
