//! `SO_PEERCRED`, unix(7).

use std::io;
use std::os::unix::net::UnixStream;

use super::Peer;

pub(super) fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    let found = rustix::net::sockopt::socket_peercred(stream)?;
    let pid = u32::try_from(found.pid.as_raw_nonzero().get()).unwrap_or(0);
    Ok(Peer {
        pid,
        uid: found.uid.as_raw(),
        gid: found.gid.as_raw(),
    })
}
