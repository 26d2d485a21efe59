//! What becomes of a request.

use agentfs_core::id::BranchId;
use agentfs_proto::message::Reply;
use tracing::Span;

use crate::base::refusal::Refusal;
use crate::base::reply::ReplyWithFds;
use crate::shared::jobs::{Job, Size};

/// What becomes of a request.
pub(crate) enum Work {
    /// The request has its reply.
    Done(ReplyWithFds),
    /// The request may take long: a thread of its own carries it out, and the reply comes later.
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
    Ok(in_span(run, size, None))
}

/// Hands a long request over to a thread of its own, which keeps a branch as it is.
pub(super) fn holding_job(
    branch: BranchId,
    run: impl FnOnce() -> Result<ReplyWithFds, Refusal> + Send + 'static,
) -> Result<Work, Refusal> {
    Ok(in_span(run, Size::Long, Some(branch)))
}

/// Creates a job that runs in the span of its request, in any thread, when it has its turn.
fn in_span(
    run: impl FnOnce() -> Result<ReplyWithFds, Refusal> + Send + 'static,
    size: Size,
    holds: Option<BranchId>,
) -> Work {
    let span = Span::current();
    let run = Box::new(move || span.in_scope(run));
    Work::Job(Job { run, size, holds })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::Span;

    use super::{Size, Work, job};
    use crate::base::reply::ReplyWithFds;

    #[test]
    fn a_job_that_runs_later_is_in_the_span_of_its_request() {
        let subscriber = tracing_subscriber::registry();
        let _default = tracing::subscriber::set_default(subscriber);
        let request = tracing::debug_span!("request");
        let seen = Arc::new(Mutex::new(None));
        let sees = Arc::clone(&seen);
        let work = request.in_scope(|| {
            job(Size::Short, move || {
                *sees.lock().unwrap() = Span::current().id();
                Ok(ReplyWithFds::done())
            })
        });
        assert!(Span::current().is_none());
        let Ok(Work::Job(job)) = work else {
            panic!("it is no job");
        };
        (job.run)().unwrap();
        assert_eq!(*seen.lock().unwrap(), request.id());
        assert!(request.id().is_some());
    }
}
