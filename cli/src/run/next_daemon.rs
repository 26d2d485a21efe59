//! What a run does when its daemon is killed: it goes on with the next one.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use agentfs_client::{CallError, ConnectError};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::output::failure::Failure;
use crate::project::connection::DaemonConnection;

/// How many daemons a run outlives while it ends.
pub(super) const MOST: usize = 10;
/// How long a run waits for the daemon that is started for the mounts of the one before.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// Returns whether a failure says that the daemon ended before it had answered.
pub(super) fn is_gone(failure: &Failure) -> bool {
    match failure {
        Failure::Call(_, error) | Failure::Connect(ConnectError::Handshake(error)) => matches!(
            error,
            CallError::Closed | CallError::Timeout | CallError::Io(_)
        ),
        Failure::Connect(_)
        | Failure::Output(_)
        | Failure::Input(_)
        | Failure::Start(_)
        | Failure::Other(_) => false,
    }
}

/// Waits for the daemon that is started for the mounts that are kept in a store, and connects to it. It has
/// to have the same project as the one before. Returns `None` if no mount is kept, or no daemon comes in
/// time; somebody else has to start one then.
pub(super) fn wait_for(store: &Path, before: &DaemonConnection) -> Option<DaemonConnection> {
    let end = Instant::now() + PATIENCE;
    while has_kept_mounts(store) && Instant::now() < end {
        match DaemonConnection::connect(&before.socket, String::new()) {
            Ok(next) => {
                let identity = |it: &DaemonConnection| (it.project.device, it.project.inode);
                return (identity(&next) == identity(before)).then_some(next);
            }
            Err(error) => tracing::debug!(%error, "there is no next daemon yet"),
        }
        sleep(PAUSE);
    }
    None
}

/// Returns whether a mount of the store has a keeper that lives. One that was killed has left its socket.
fn has_kept_mounts(store: &Path) -> bool {
    let mounts = store.join("mounts");
    let (Ok(sockets), Ok(directory)) = (agentfs_mount::kept_in(&mounts), File::open(&mounts))
    else {
        return false;
    };
    let directory = directory.as_raw_fd();
    let names = sockets.iter().filter_map(|socket| socket.file_name());
    // The path of the store may be longer than an address.
    let mut paths = names.map(|name| Path::new(&format!("/proc/self/fd/{directory}")).join(name));
    paths.any(|path| is_listened_at(&path))
}

/// Returns whether a process listens at a stream socket, which does not notice that: a socket of another
/// type gets EPROTOTYPE, and ECONNREFUSED if there is no such process (unix(7)).
fn is_listened_at(path: &Path) -> bool {
    let Ok(address) = SocketAddrUnix::new(path) else {
        return false;
    };
    let other = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    other.is_ok_and(|other| connect(&other, &address) == Err(Errno::PROTOTYPE))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::is_listened_at;

    #[test]
    fn a_socket_without_a_process_is_told_from_one_at_which_it_listens() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        assert!(!is_listened_at(&path));
        let listener = UnixListener::bind(&path).expect("a socket");
        listener.set_nonblocking(true).expect("it does not block");
        assert!(is_listened_at(&path));
        listener.accept().expect_err("nobody has connected");
        drop(listener);
        assert!(!is_listened_at(&path));
    }
}
