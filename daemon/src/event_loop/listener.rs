//! The listening socket: made here, or taken from systemd.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use agentfs_proto::socket;
use rustix::fs::OFlags;

use crate::base::start_error::ListenError;
use crate::session::peer::Peer;

/// A non-blocking socket that listens. Its name is removed when this is dropped, unless the socket
/// came from systemd.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// `None` when systemd made it, or when it could not be made again.
    name: Option<Name>,
}

/// Writes into the file beside the socket, which programs with the preloaded library watch to learn that a
/// daemon listens again. They fall back to the kernel's events when that fails.
fn announce(lock: &File) {
    use std::os::unix::fs::FileExt as _;
    if let Err(error) = lock.write_all_at(b"!", 0) {
        tracing::warn!(%error, "programs that run do not learn of this daemon");
    }
}

/// The name of the socket in its directory.
#[derive(Debug)]
struct Name {
    /// Held while the daemon lives, so that of two that start at once one gives way.
    lock: File,
    identity: SocketIdentity,
}

/// The identity of our socket file, so that no other file is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SocketIdentity {
    dev: u64,
    ino: u64,
}

impl Listener {
    /// Takes the socket that systemd passed to this process, if it did (`LISTEN_FDS`,
    /// sd_listen_fds(3)).
    pub(crate) fn from_systemd() -> Result<Option<Self>, ListenError> {
        let mut passed = listenfd::ListenFd::from_env();
        let Some(socket) = passed
            .take_unix_listener(0)
            .map_err(ListenError::Activation)?
        else {
            return Ok(None);
        };
        socket
            .set_nonblocking(true)
            .map_err(ListenError::Activation)?;
        let address = socket.local_addr().map_err(ListenError::Activation)?;
        let path = address
            .as_pathname()
            .map(Path::to_owned)
            .unwrap_or_default();
        // Without the lock: systemd holds the socket, so no second daemon can have it.
        match open_beside(&path) {
            Ok(file) => announce(&file),
            Err(error) => tracing::warn!(%error, "programs that run do not learn of this daemon"),
        }
        Ok(Some(Self {
            socket,
            path,
            name: None,
        }))
    }

    /// Listens at `path`. A socket that a dead daemon left is replaced; a live daemon is left alone.
    pub(crate) fn bind(path: &Path) -> Result<Self, ListenError> {
        Self::bind_with(path, None)
    }

    /// Binds as [`bind`](Self::bind) does, with a lock that this daemon has already.
    fn bind_with(path: &Path, lock: Option<File>) -> Result<Self, ListenError> {
        socket::prepare(path).map_err(ListenError::Path)?;
        let failed = |error| ListenError::Io(path.to_owned(), error);
        // Programs watch this file. The lock may come to lie on another one of the name, when a daemon that
        // was killed cannot end.
        let watched = match &lock {
            Some(own) => own.try_clone(),
            None => open_beside(path),
        };
        let watched = watched.map_err(failed)?;
        let lock = lock.map_or_else(|| lock_beside(path), Ok)?;
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ListenError::NotASocket(path.to_owned()));
            }
            Ok(_) => {
                // Somebody else may listen there without our lock: a program of another kind, or a
                // daemon whose lock file was removed.
                if is_served(path) {
                    return Err(ListenError::Running(path.to_owned()));
                }
                tracing::info!(path = %path.display(), "replacing the socket of a dead daemon");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // The socket gets its name when it listens already: a program that waits for the name in
        // order to connect must not find a socket that refuses.
        let unnamed = beside(path, ".new");
        match std::fs::remove_file(&unnamed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let socket = UnixListener::bind(&unnamed).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        std::fs::rename(&unnamed, path).map_err(failed)?;
        let identity = identity_of(path).map_err(failed)?;
        announce(&watched);
        Ok(Self {
            socket,
            path: path.to_owned(),
            name: Some(Name { lock, identity }),
        })
    }

    /// Makes the socket again when it was removed. Returns the old one then, whose connections are
    /// still to be accepted.
    pub(crate) fn restore(&mut self) -> Result<Option<Self>, ListenError> {
        let ours = self.name.as_ref().map(|it| it.identity);
        match identity_of(&self.path) {
            Ok(found) if ours.is_none_or(|ours| ours == found) => return Ok(None),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ListenError::Io(self.path.clone(), error));
            }
            // It is gone, or another program's, to which `bind` gives way.
            Ok(_) | Err(_) => {}
        }
        let lock = self.name.take().map(|it| it.lock);
        let lock = lock.filter(|it| is_at(it, &beside(&self.path, socket::LOCK_SUFFIX)));
        let mut new = Self::bind_with(&self.path, lock)?;
        self.name = new.name.take();
        // The listener that is dropped has no name, so it removes none.
        std::mem::swap(&mut self.socket, &mut new.socket);
        Ok(Some(new))
    }

    pub(crate) fn socket(&self) -> &UnixListener {
        &self.socket
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(Name { identity, .. }) = &self.name else {
            return;
        };
        if identity_of(&self.path).is_ok_and(|found| found == *identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket stays behind");
        }
    }
}

fn identity_of(path: &Path) -> io::Result<SocketIdentity> {
    let found = std::fs::symlink_metadata(path)?;
    Ok(SocketIdentity {
        dev: found.dev(),
        ino: found.ino(),
    })
}

/// Returns whether an open file still has this name.
fn is_at(file: &File, path: &Path) -> bool {
    let found = identity_of(path);
    let of = |it: std::fs::Metadata| (it.dev(), it.ino());
    matches!(found, Ok(found) if file.metadata().is_ok_and(|it| of(it) == (found.dev, found.ino)))
}

/// Returns the path with a suffix behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens the file beside the socket, which is made if need be.
fn open_beside(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(beside(path, socket::LOCK_SUFFIX))
}

/// Locks the file beside the socket. The file stays: removing it would let two daemons lock two.
fn lock_beside(path: &Path) -> Result<File, ListenError> {
    let lock_path = beside(path, socket::LOCK_SUFFIX);
    let failed = |error| ListenError::Io(lock_path.clone(), error);
    let locked = agentfs_core::lock_file(&lock_path).map_err(failed)?;
    locked.ok_or_else(|| ListenError::Running(path.to_owned()))
}

/// Returns whether a process listens at a socket, and will accept a connection.
pub(crate) fn is_served(path: &Path) -> bool {
    // A process that was killed and cannot end yet has its sockets all the same.
    let peer = UnixStream::connect(path).and_then(|it| Peer::of(&it));
    peer.is_ok_and(|peer| !agentfs_core::is_ending(peer.pid))
}
