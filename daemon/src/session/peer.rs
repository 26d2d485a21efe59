//! Who is at the other end of a connection.

use std::io;
use std::os::unix::net::UnixStream;

/// A connected process, as the kernel knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Peer {
    /// Its process, or 0 where the kernel cannot tell it.
    pub(crate) pid: u32,
    /// Its effective user when it connected.
    pub(crate) uid: u32,
    /// Its effective group.
    pub(crate) gid: u32,
}

impl Peer {
    /// Asks the kernel (`SO_PEERCRED`, unix(7)).
    #[cfg(target_os = "linux")]
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let found = rustix::net::sockopt::socket_peercred(stream)?;
        let pid = u32::try_from(found.pid.as_raw_nonzero().get()).unwrap_or(0);
        Ok(Self {
            pid,
            uid: found.uid.as_raw(),
            gid: found.gid.as_raw(),
        })
    }

    /// Asks the kernel (getpeereid(3)).
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let (uid, gid) = nix::unistd::getpeereid(stream)?;
        #[cfg(target_vendor = "apple")]
        let pid = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::LocalPeerPid)
            .ok()
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or(0);
        #[cfg(not(target_vendor = "apple"))]
        let pid = 0;
        Ok(Self {
            pid,
            uid: uid.as_raw(),
            gid: gid.as_raw(),
        })
    }

    /// Whether it may speak with a daemon of this user: the user itself, or root.
    pub(crate) fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }
}
