//! macOS: the kqueue side.

use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use crate::kqueue;

/// Makes a socket. There is no SOCK_CLOEXEC: a child forked by another thread between the two calls
/// inherits it.
pub(crate) fn new_socket() -> Option<OwnedFd> {
    use rustix::io::{FdFlags, fcntl_setfd};
    use rustix::net::{AddressFamily, SocketType, socket};
    let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None).ok()?;
    fcntl_setfd(&fd, FdFlags::CLOEXEC).ok()?;
    Some(fd)
}

/// Returns the path of the running program.
pub(crate) fn program_path() -> PathBuf {
    std::env::current_exe().unwrap_or_default()
}

/// Notes that a descriptor of the program is about to be closed.
pub(crate) fn closing(fd: RawFd) {
    kqueue::closing(fd);
}

/// Notes that a descriptor of the program has another number, too.
pub(crate) fn duplicated(from: RawFd, to: RawFd) {
    kqueue::duplicated(from, to);
}

/// Makes the state that of a child of fork.
pub(crate) fn in_forked_child() {
    kqueue::in_forked_child();
}
