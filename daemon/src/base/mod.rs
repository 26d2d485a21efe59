//! What every other folder uses. Nothing here uses another folder.

pub(crate) mod config;
pub(crate) mod echo_mode;
pub(crate) mod process_start;
pub(crate) mod public_session;
pub(crate) mod queues;
pub(crate) mod refill_id;
pub(crate) mod refusal;
pub(crate) mod reply;
pub(crate) mod session_limits;
pub(crate) mod start_error;
pub(crate) mod wake;
