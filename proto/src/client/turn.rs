//! Requests that may have to wait for their turn.

use std::time::{Duration, Instant};

use super::{CallError, Client, Deadline};
use crate::message::{Call, Reply, Request};

impl Client {
    /// As [`call`](Self::call), for a request that may have to wait until others are done. When the
    /// daemon says that it has to and has not answered after `patience`, `tell` is called with how
    /// many go first. From then on there is no deadline: the answer comes, or the connection ends.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub fn call_in_turn<C: Call>(
        &mut self,
        request: C,
        deadline: Deadline,
        patience: Duration,
        tell: impl FnOnce(u64),
    ) -> Result<C::Answer, CallError> {
        let request: Request = request.into();
        let number = self.send(request, deadline)?;
        let mut deadline = deadline;
        let mut waiting: Option<(Deadline, u64)> = None;
        let mut tell = Some(tell);
        loop {
            let until = waiting.map_or(deadline, |(until, _)| until);
            let answer = match (self.receive(until), waiting) {
                (Err(CallError::Timeout), Some((_, ahead))) => {
                    if let Some(tell) = tell.take() {
                        tell(ahead);
                    }
                    waiting = None;
                    continue;
                }
                (answer, _) => answer?,
            };
            match answer.reply {
                Reply::FsEventBroadcast(event) => self.broadcasts.push_back(event),
                _ if ![0, number].contains(&answer.request) => {}
                Reply::Waiting(it) => {
                    deadline = Deadline::NEVER;
                    waiting = Some((Deadline(Instant::now().checked_add(patience)), it.ahead));
                }
                Reply::Error(error) => return Err(CallError::Refused(error)),
                reply => {
                    let unexpected = |reply: Reply| CallError::Unexpected(reply.name());
                    return C::Answer::try_from(reply).map_err(unexpected);
                }
            }
        }
    }
}
