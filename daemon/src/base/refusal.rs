//! Why a request is refused.

use agentfs_core::Errno;
use agentfs_engine::service::WatchError;
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

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self(ErrorReply {
            code: Code::FILESYSTEM,
            errno: errno.raw().unsigned_abs(),
            message: errno.to_string(),
        })
    }
}

impl From<WatchError> for Refusal {
    fn from(error: WatchError) -> Self {
        let code = match error {
            WatchError::NoSession(_) | WatchError::NoQueue(_) | WatchError::NoWatch(_) => {
                Code::NOT_FOUND
            }
            WatchError::OtherApi(_) => Code::INVALID,
            WatchError::Limit(..) => Code::LIMIT,
            WatchError::Ring(_) | WatchError::Doorbell(_) => Code::RESOURCES,
        };
        Self::new(code, error.to_string())
    }
}
