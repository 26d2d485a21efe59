//! What a request is answered with.

use std::os::fd::OwnedFd;

use agentfs_core::id::SessionId;
use agentfs_proto::message::{Done, Reply};

use crate::base::refusal::Refusal;

/// A reply with the descriptors that go along.
#[derive(Debug)]
pub(crate) struct ReplyWithFds {
    pub(crate) reply: Reply,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// The reply of a request that took long and has ended.
#[derive(Debug)]
pub(crate) struct LateReply {
    pub(crate) session: SessionId,
    pub(crate) request: u64,
    pub(crate) result: Result<ReplyWithFds, Refusal>,
}

impl ReplyWithFds {
    /// Creates the reply that says no more than that the request was carried out.
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

impl<T: Into<Reply>> From<T> for ReplyWithFds {
    fn from(reply: T) -> Self {
        Self::with(reply, Vec::new())
    }
}
