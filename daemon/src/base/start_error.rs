//! Why a daemon does not start, or cannot go on.

use std::fmt;
use std::io;
use std::path::PathBuf;

use agentfs_core::ConfigError;
use agentfs_export::command::quoted;
use agentfs_proto::socket::{SOCKET_VARIABLE, SocketPathError};

/// Why a daemon does not start, or ended by itself.
#[derive(Debug)]
pub enum StartError {
    /// It cannot listen.
    Listen(ListenError),
    /// The directory below the branches cannot be used.
    Lower(PathBuf, io::Error),
    /// The filesystem cannot be set up.
    Filesystem(ConfigError),
    /// The system refused a thread, memory or descriptors, or waiting failed.
    Io(io::Error),
    /// The server thread panicked; its message is in the log.
    Panicked,
    /// Another daemon has branches of the project and cannot be reached.
    Unreachable {
        /// The directory below the branches.
        lower: PathBuf,
        /// Its process.
        pid: u32,
        /// Where it listened.
        socket: PathBuf,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => error.fmt(f),
            Self::Lower(path, error) => {
                write!(
                    f,
                    "the lower directory {} cannot be used: {error}",
                    path.display()
                )
            }
            Self::Filesystem(error) => error.fmt(f),
            Self::Io(error) => write!(f, "the daemon cannot run: {error}"),
            Self::Panicked => write!(f, "the daemon failed; its log says where"),
            Self::Unreachable { lower, pid, socket } => write!(
                f,
                "process {pid} is the daemon of {} and cannot be reached, because its socket {} was \
                 removed; end it, then it exports what its branches hold: kill {pid}",
                lower.display(),
                socket.display()
            ),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen(error) => Some(error),
            Self::Lower(_, error) | Self::Io(error) => Some(error),
            Self::Filesystem(error) => Some(error),
            Self::Panicked | Self::Unreachable { .. } => None,
        }
    }
}

/// Why the daemon cannot listen.
#[derive(Debug)]
pub enum ListenError {
    /// The path or its directory is not usable.
    Path(SocketPathError),
    /// Another daemon listens there.
    Running(PathBuf),
    /// Something that is no socket is in the way.
    NotASocket(PathBuf),
    /// The system refused.
    Io(PathBuf, io::Error),
    /// systemd gave something else than one listening Unix socket.
    Activation(io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(error) => error.fmt(f),
            Self::Running(path) => write!(
                f,
                "an AgentFS daemon is already listening at {}; use it, or name another socket in {}; \
                 to end it: agentfs --socket {} shutdown",
                path.display(),
                SOCKET_VARIABLE,
                quoted(path.as_os_str())
            ),
            Self::NotASocket(path) => {
                write!(
                    f,
                    "{} is not a socket; move it out of the way",
                    path.display()
                )
            }
            Self::Io(path, error) => write!(f, "cannot listen at {}: {error}", path.display()),
            Self::Activation(error) => {
                write!(
                    f,
                    "systemd passed no usable socket (ListenStream= in the unit): {error}"
                )
            }
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Path(error) => Some(error),
            Self::Io(_, error) | Self::Activation(error) => Some(error),
            Self::Running(_) | Self::NotASocket(_) => None,
        }
    }
}
