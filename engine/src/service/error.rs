//! Why the watch service refuses a request.

use std::fmt;
use std::io;

use agentfs_core::id::SessionId;
use agentfs_ring::MapError;

use crate::api::Api;
use crate::queue::{QueueId, WatchId};

/// Why the service cannot open, change or close a queue or a watch.
#[derive(Debug)]
pub enum WatchError {
    /// There is no such session.
    NoSession(SessionId),
    /// There is no such queue in the session.
    NoQueue(QueueId),
    /// The queue has no such watch.
    NoWatch(WatchId),
    /// The queue is of this API, and the watch of another.
    OtherApi(Api),
    /// The session or the queue has as many of something as it may have.
    Limit(&'static str, usize),
    /// The system gives no memory for the ring.
    Ring(MapError),
    /// The system gives no descriptor for a doorbell.
    Doorbell(io::Error),
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSession(id) => write!(f, "there is no session {id}"),
            Self::NoQueue(QueueId(id)) => write!(f, "the session has no queue {id}; open it first"),
            Self::NoWatch(WatchId(id)) => write!(f, "the queue has no watch {id}"),
            Self::OtherApi(api) => write!(f, "the queue is for {api:?} watches; open another"),
            Self::Limit(what, limit) => {
                write!(f, "the limit of {limit} {what} is reached; close some")
            }
            Self::Ring(error) => error.fmt(f),
            Self::Doorbell(error) => write!(f, "cannot make a doorbell: {error}"),
        }
    }
}

impl std::error::Error for WatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Ring(error) => Some(error),
            Self::Doorbell(error) => Some(error),
            Self::NoSession(_)
            | Self::NoQueue(_)
            | Self::NoWatch(_)
            | Self::OtherApi(_)
            | Self::Limit(..) => None,
        }
    }
}
