//! What the daemon answers.

use std::os::fd::OwnedFd;

use agentfs_proto::message::{Done, Reply};

/// A reply with the descriptors that go along.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Answer {
    /// There is nothing to tell.
    pub(crate) fn done() -> Self {
        Self::from(Done { value: 0 })
    }

    pub(crate) fn with(reply: impl Into<Reply>, descriptors: Vec<OwnedFd>) -> Self {
        Self {
            reply: reply.into(),
            descriptors,
        }
    }
}

impl<T: Into<Reply>> From<T> for Answer {
    fn from(reply: T) -> Self {
        Self::with(reply, Vec::new())
    }
}
