//! What becomes of a request.

use agentfs_core::id::BranchId;
use agentfs_proto::message::Reply;

use crate::base::refusal::Refusal;
use crate::base::reply::ReplyWithFds;
use crate::shared::jobs::{Job, Size};

/// What becomes of a request.
pub(crate) enum Work {
    /// It has its reply.
    Done(ReplyWithFds),
    /// It may take long: a thread of its own carries it out, and the reply comes later.
    Job(Job),
}

/// Answers a request at once.
pub(super) fn done(reply: impl Into<Reply>) -> Result<Work, Refusal> {
    Ok(Work::Done(ReplyWithFds::with(reply, Vec::new())))
}

/// Hands a request over to a thread of its own.
pub(super) fn job(
    size: Size,
    run: impl FnOnce() -> Result<ReplyWithFds, Refusal> + Send + 'static,
) -> Result<Work, Refusal> {
    let (run, holds) = (Box::new(run), None);
    Ok(Work::Job(Job { run, size, holds }))
}

/// As [`job`], for a long one that keeps a branch as it is.
pub(super) fn holding_job(
    branch: BranchId,
    run: impl FnOnce() -> Result<ReplyWithFds, Refusal> + Send + 'static,
) -> Result<Work, Refusal> {
    let (run, size, holds) = (Box::new(run), Size::Long, Some(branch));
    Ok(Work::Job(Job { run, size, holds }))
}
