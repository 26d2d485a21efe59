//! A connected socket.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use agentfs_proto::socket::{self, SocketPathError};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, sockopt};

use crate::deadline::Deadline;
use crate::error::ConnectError;

/// Connects to whoever listens at `path`. The socket does not block.
pub(crate) fn open_socket(path: &Path, deadline: Deadline) -> Result<OwnedFd, ConnectError> {
    if path.as_os_str().len() > socket::MAX_PATH {
        return Err(ConnectError::Path(SocketPathError::TooLong(
            path.to_owned(),
        )));
    }
    let failed = |error| ConnectError::Io(path.to_owned(), error);
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let socket = new_socket().map_err(failed)?;
    // A full backlog makes connect wait, and a non-blocking connect fail at once: a timeout is in
    // between.
    if let Some(remaining) = deadline.remaining() {
        let wait = remaining.max(Duration::from_millis(1));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(wait)).map_err(failed)?;
    }
    rustix::io::retry_on_intr(|| connect(&socket, &address)).map_err(|error| match error {
        Errno::NOENT | Errno::CONNREFUSED => ConnectError::NoDaemon(path.to_owned()),
        Errno::AGAIN => ConnectError::Busy(path.to_owned()),
        other => failed(other),
    })?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(failed)?;
    Ok(socket)
}

#[cfg(not(target_vendor = "apple"))]
fn new_socket() -> rustix::io::Result<OwnedFd> {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

#[cfg(target_vendor = "apple")]
fn new_socket() -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    sockopt::set_socket_nosigpipe(&socket, true)?;
    Ok(socket)
}
