//! Why a request is refused.

use agentfs_proto::message::{Code, ErrorReply, Reply};

/// A refusal, with a text that names the thing and the way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal(pub(crate) ErrorReply);

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self(ErrorReply {
            code,
            errno: 0,
            message: message.into(),
        })
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::INVALID, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NOT_FOUND, message)
    }

    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::new(Code::LIMIT, message)
    }

    pub(crate) fn into_reply(self) -> Reply {
        Reply::Error(self.0)
    }
}
