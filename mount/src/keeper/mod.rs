//! Processes that outlive the server of a mount.
//!
//! A [guardian](guardian::Guardian) ends the mount when its server dies. A keeper holds the mount's
//! `/dev/fuse` instead: programs that use the mount wait, until another server [takes](take) it over or
//! the keeper loses patience. [`wire`] says what is said over its socket.

mod guardian;
mod process;
mod successor;
mod wire;

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::keeper::guardian::Guardian;
use crate::kept::{Kept, SavedMount};
use crate::location::Located;
use crate::options::MountOptions;

pub use self::process::keep;

/// The extension of the sockets of keepers.
const EXTENSION: &str = "mount";
/// How long a keeper may take to start: it does nothing but bind a socket.
const START: Duration = Duration::from_secs(20);

/// How mounts are kept when the process that serves them ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeeperOptions {
    /// The program of the keeper: it calls [`keep`] with the arguments that come after `arguments`.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<OsString>,
    /// Where the sockets are: a directory that only this user may enter.
    pub directory: PathBuf,
    /// How long programs wait for another server. When it is over, they get `ENOTCONN`.
    pub patience: Duration,
    /// The program that is started when the server was killed, and its arguments. It has to
    /// [take](crate::take) all mounts that are [kept](crate::kept_in) in the directory. Its standard error
    /// goes to the file `restarted.log` there. Empty if somebody else starts the next server.
    pub next_server: Vec<OsString>,
}

/// Why a kept mount cannot be had from its keeper.
#[derive(Debug)]
pub enum TakeError {
    /// There is no keeper at this socket.
    NoKeeper(PathBuf),
    /// The server before still lives, or nobody answers.
    Served(PathBuf),
    /// The socket belongs to another user.
    OtherUser(PathBuf),
    /// What the keeper says cannot be understood.
    Io(PathBuf, io::Error),
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKeeper(socket) => write!(f, "no mount is kept at {}", socket.display()),
            Self::Served(socket) => write!(
                f,
                "the mount that is kept at {} is still served: end its daemon first",
                socket.display()
            ),
            Self::OtherUser(socket) => {
                write!(f, "{} belongs to another user", socket.display())
            }
            Self::Io(socket, error) => write!(
                f,
                "the mount that is kept at {} cannot be had: {error}",
                socket.display()
            ),
        }
    }
}

impl std::error::Error for TakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            Self::NoKeeper(_) | Self::Served(_) | Self::OtherUser(_) => None,
        }
    }
}

/// Returns the sockets of the keepers in a directory; some may be left by keepers that were killed.
///
/// # Errors
///
/// Those of reading the directory.
pub fn kept_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == EXTENSION) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Takes a mount from its keeper, to [serve](crate::Mounts::take_over) it. Waits until the server before
/// is gone with all its threads, so that no request is read by both.
///
/// # Errors
///
/// [`TakeError`]; the keeper goes on then.
pub fn take(socket: &Path, at_most: Duration) -> Result<Kept, TakeError> {
    let at = || socket.to_owned();
    let failed = |error: io::Error| {
        let kind = error.kind();
        if matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
            TakeError::NoKeeper(at())
        } else if matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            TakeError::Served(at())
        } else {
            TakeError::Io(at(), error)
        }
    };
    let connection = connect(socket).map_err(failed)?;
    if !wire::is_own_user(&connection) {
        return Err(TakeError::OtherUser(at()));
    }
    connection.set_read_timeout(Some(at_most)).map_err(failed)?;
    let kept = wire::receive(&connection).map_err(failed)?;
    Ok(Kept {
        keeper: Some(connection),
        ..kept
    })
}

/// Connects to a socket whose path may be longer than an address.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (directory, name) = process::pin(socket)?;
    UnixStream::connect(process::through(&directory, &name))
}

/// What is there when the server of a mount is gone.
#[derive(Debug)]
pub(crate) enum Guard {
    None,
    /// Ends the mount.
    Guardian(Guardian),
    /// Keeps the mount for the next server, as long as this connection is open.
    Keeper(UnixStream, Option<Child>),
}

impl Guard {
    /// Starts what the options ask for. It lives until it is [dismissed](Self::dismiss), or the calling
    /// thread is gone. `before` is the connection to the keeper that has the mount already.
    pub(crate) fn start(
        mount: &Located,
        saved: &SavedMount,
        options: &MountOptions,
        before: Option<UnixStream>,
    ) -> io::Result<Self> {
        let keeper = options.keeper.as_ref();
        let keeper = keeper.filter(|_| saved.negotiated.can_resend());
        let guard = match (keeper, &before) {
            (Some(keeper), _) => start_keeper(mount, saved, keeper)?,
            (None, Some(_)) => Self::None,
            (None, None) if options.guarded => Self::Guardian(Guardian::start(mount)?),
            (None, None) => Self::None,
        };
        Ok(match before {
            Some(before) if matches!(guard, Self::None) => Self::Keeper(before, None),
            Some(before) => {
                Self::Keeper(before, None).dismiss();
                guard
            }
            None => guard,
        })
    }

    /// Lets go, because there is nothing to be kept any more.
    pub(crate) fn dismiss(self) {
        match self {
            Self::None => {}
            Self::Guardian(guardian) => guardian.dismiss(),
            Self::Keeper(mut connection, child) => {
                let written = connection.write_all(b"G");
                // Waits until the keeper has closed its copy of the device.
                let ended = written.and_then(|()| connection.read(&mut [0]).map(drop));
                let reaped = child.map(|mut child| child.wait());
                if let Err(error) = ended.and_then(|()| reaped.transpose().map(drop)) {
                    tracing::debug!(%error, "the keeper of a mount was gone before it");
                }
            }
        }
    }

    /// Leaves the mount to the next server, because this one ends.
    pub(crate) fn leave(self) {
        match self {
            // It would end the mount.
            Self::Guardian(guardian) => guardian.dismiss(),
            Self::None | Self::Keeper(..) => {}
        }
    }
}

fn start_keeper(mount: &Located, saved: &SavedMount, options: &KeeperOptions) -> io::Result<Guard> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(START))?;
    let connection = mount.connection.as_ref().map(File::try_clone).transpose()?;
    let (major, minor) = (
        rustix::fs::major(saved.device),
        rustix::fs::minor(saved.device),
    );
    let socket = format!("{major}-{minor}.{EXTENSION}");
    let child = Command::new(&options.program)
        .args(&options.arguments)
        .arg(options.directory.join(socket))
        .arg(options.patience.as_millis().to_string())
        .args(&options.next_server)
        .current_dir("/")
        .stdin(OwnedFd::from(theirs))
        .stdout(connection.map_or_else(Stdio::null, Stdio::from))
        .stderr(Stdio::null())
        // What interrupts the server from a terminal is not for the keeper.
        .process_group(0)
        .spawn()?;
    wire::send(&ours, mount.live.copy()?.as_fd(), &saved.next())?;
    let mut byte = [0];
    (&ours).read_exact(&mut byte)?;
    ours.set_read_timeout(None)?;
    Ok(Guard::Keeper(ours, Some(child)))
}
