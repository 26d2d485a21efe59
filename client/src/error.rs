//! Why the client has no answer.

use std::fmt;
use std::io;
use std::path::PathBuf;

use agentfs_proto::frame::FrameError;
use agentfs_proto::message::ErrorReply;
use agentfs_proto::record::RecordError;
use agentfs_proto::socket::SocketPathError;
use agentfs_proto::ssz::SszError;
use agentfs_ring::{Corrupt, OpenError};
use rustix::io::Errno;

/// Why a request has no answer.
#[derive(Debug)]
pub enum CallError {
    /// The daemon refused it.
    Refused(ErrorReply),
    /// The deadline passed. The request may still be carried out; its answer is passed over when it
    /// comes.
    Timeout,
    /// The daemon is gone or ended the connection.
    Closed,
    /// A system call failed.
    Io(Errno),
    /// The request does not fit a frame, or the daemon sent no frame.
    Frame(FrameError),
    /// The daemon sent no message.
    Malformed(SszError),
    /// The daemon sent another kind of answer, named here.
    Unexpected(&'static str),
    /// The answer came with another number of descriptors than it says, or than this process may
    /// have.
    Descriptors {
        /// How many it says.
        expected: usize,
        /// How many came.
        found: usize,
    },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Timeout => write!(f, "the daemon did not answer in time"),
            Self::Closed => write!(f, "the daemon ended the connection; is it still running?"),
            Self::Io(error) => write!(f, "the control socket failed: {error}"),
            Self::Frame(error) => error.fmt(f),
            Self::Malformed(error) => write!(f, "the daemon sent an unknown message: {error}"),
            Self::Unexpected(name) => write!(f, "the daemon gave the unexpected answer {name}"),
            Self::Descriptors { expected, found } => write!(
                f,
                "{expected} descriptors were to come from the daemon, {found} did; \
                 see the limit of open files (ulimit -n)"
            ),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::Frame(error) => Some(error),
            Self::Malformed(error) => Some(error),
            Self::Timeout | Self::Closed | Self::Unexpected(_) | Self::Descriptors { .. } => None,
        }
    }
}

impl From<Errno> for CallError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::PIPE | Errno::CONNRESET => Self::Closed,
            other => Self::Io(other),
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// Nobody listens at the path.
    NoDaemon(PathBuf),
    /// The path is not usable.
    Path(SocketPathError),
    /// The daemon does not take connections in time.
    Busy(PathBuf),
    /// A system call failed.
    Io(PathBuf, Errno),
    /// The handshake failed.
    Handshake(CallError),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDaemon(path) => write!(
                f,
                "no AgentFS daemon listens at {}; start one with: agentfs daemon",
                path.display()
            ),
            Self::Path(error) => error.fmt(f),
            Self::Busy(path) => {
                write!(
                    f,
                    "the daemon at {} takes no connection; is it stopped?",
                    path.display()
                )
            }
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Handshake(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Path(error) => Some(error),
            Self::Io(_, error) => Some(error),
            Self::Handshake(error) => Some(error),
            Self::NoDaemon(_) | Self::Busy(_) => None,
        }
    }
}

/// Why a subscription has no more events.
#[derive(Debug)]
#[non_exhaustive]
pub enum SubscriptionError {
    /// No session with the daemon could be made.
    Connect(ConnectError),
    /// The daemon refused the queue or the watch, or did not answer.
    Call(CallError),
    /// The daemon handed out memory that is no ring.
    Open(OpenError),
    /// The daemon's words in the ring make no sense.
    Corrupt(Corrupt),
    /// The daemon wrote something that is no event record.
    Record(RecordError),
    /// A system call on the doorbell failed.
    Doorbell(io::Error),
    /// Another process pops this ring: a process that was forked with the subscription.
    Shared,
    /// The daemon ended. [`Subscription::resume`](crate::Subscription::resume) connects to the next
    /// one.
    DaemonGone,
}

impl fmt::Display for SubscriptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Call(error) => error.fmt(f),
            Self::Open(error) => error.fmt(f),
            Self::Corrupt(error) => write!(f, "the ring is damaged: {error}"),
            Self::Record(error) => write!(f, "the ring has a damaged record: {error}"),
            Self::Doorbell(error) => write!(f, "the doorbell failed: {error}"),
            Self::Shared => write!(
                f,
                "another process reads this subscription; open one in each process"
            ),
            Self::DaemonGone => write!(f, "the daemon ended"),
        }
    }
}

impl std::error::Error for SubscriptionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            Self::Call(error) => Some(error),
            Self::Open(error) => Some(error),
            Self::Corrupt(error) => Some(error),
            Self::Record(error) => Some(error),
            Self::Doorbell(error) => Some(error),
            Self::Shared | Self::DaemonGone => None,
        }
    }
}

impl From<ConnectError> for SubscriptionError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl From<CallError> for SubscriptionError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}
