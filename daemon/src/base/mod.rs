//! What every other folder uses, and what uses none of them.

pub(crate) mod echo_mode;
pub(crate) mod refusal;
pub(crate) mod reply;
pub(crate) mod session_limits;
