//! getpeereid(3), and `LOCAL_PEERPID` for the process.

use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt::LocalPeerPid};

use super::Peer;

pub(super) fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    let (uid, gid) = nix::unistd::getpeereid(stream)?;
    let pid = getsockopt(stream, LocalPeerPid).ok();
    Ok(Peer {
        pid: pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
        uid: uid.as_raw(),
        gid: gid.as_raw(),
    })
}
