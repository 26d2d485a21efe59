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
            if let Reply::FsEventBroadcast(event) = answer.reply {
                self.broadcasts.push_back(event);
            } else if let Reply::Waiting(it) = answer.reply {
                deadline = Deadline::NEVER;
                waiting = Some((Deadline(Instant::now().checked_add(patience)), it.ahead));
            } else if [0, number].contains(&answer.request) {
                if let Reply::Error(error) = answer.reply {
                    return Err(CallError::Refused(error));
                }
                return C::Answer::try_from(answer.reply)
                    .map_err(|reply| CallError::Unexpected(reply.name()));
            }
        }
    }
}
