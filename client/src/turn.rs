//! Requests that may have to wait for their turn.

use std::time::Duration;

use agentfs_proto::message::{Call, Reply};

use crate::client::Client;
use crate::deadline::Deadline;
use crate::error::CallError;

/// What is known of a request that was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress<A> {
    /// The answer has come.
    Answered(A),
    /// The request waits until others are done, and so many go first.
    Waiting(u64),
    /// Nothing has come since the last look.
    Pending,
}

impl Client {
    /// Sends a request as [`call`](Self::call) does, which may have to wait until others are done.
    /// When the daemon says that the request has to wait and has not answered it after `patience`,
    /// `notice` is called with how many go first. From then on there is no deadline: the answer comes,
    /// or the connection ends.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut client, soon) = (daemon::client()?, daemon::soon());
    /// use std::time::Duration;
    ///
    /// use agentfs_proto::message::SnapshotRestore;
    ///
    /// let restore = SnapshotRestore { snapshot: "s1".to_owned(), branch: String::new() };
    /// client.call_in_turn(restore, soon, Duration::from_secs(1), |ahead| {
    ///     eprintln!("waiting for {ahead} others");
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn call_in_turn<C: Call>(
        &mut self,
        request: C,
        deadline: Deadline,
        patience: Duration,
        notice: impl FnOnce(u64),
    ) -> Result<C::Answer, CallError> {
        let number = self.send(request.into(), deadline)?;
        let mut deadline = deadline;
        let mut waiting: Option<(Deadline, u64)> = None;
        let mut notice = Some(notice);
        loop {
            let until = waiting.map_or(deadline, |(until, _)| until);
            match (self.progress(number, until)?, waiting) {
                (Progress::Answered(answer), _) => return Ok(answer),
                (Progress::Waiting(ahead), _) => {
                    deadline = Deadline::NEVER;
                    waiting = Some((Deadline::after(patience), ahead));
                }
                (Progress::Pending, Some((_, ahead))) => {
                    if let Some(notice) = notice.take() {
                        notice(ahead);
                    }
                    waiting = None;
                }
                (Progress::Pending, None) => return Err(CallError::Timeout),
            }
        }
    }

    /// Waits for the next answer to a request that was [sent](Self::send), and returns
    /// [`Pending`](Progress::Pending) when none comes before the deadline. With a deadline that has
    /// passed, only what has come already is read.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call), without [`Timeout`](CallError::Timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut client, soon) = (daemon::client()?, daemon::soon());
    /// use agentfs_client::Progress;
    /// use agentfs_proto::message::{Done, SnapshotRestore};
    ///
    /// let restore = SnapshotRestore { snapshot: "s1".to_owned(), branch: String::new() };
    /// let number = client.send(restore.into(), soon)?;
    /// loop {
    ///     match client.progress::<Done>(number, soon)? {
    ///         Progress::Answered(_) => break,
    ///         Progress::Waiting(ahead) => println!("{ahead} go first"),
    ///         Progress::Pending => println!("nothing new"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn progress<A: TryFrom<Reply, Error = Reply>>(
        &mut self,
        number: u64,
        deadline: Deadline,
    ) -> Result<Progress<A>, CallError> {
        loop {
            let answer = match self.receive(deadline) {
                Err(CallError::Timeout) => return Ok(Progress::Pending),
                answer => answer?,
            };
            if let Reply::FsEventBroadcast(event) = answer.reply {
                self.broadcasts.push_back(event);
            } else if [0, number].contains(&answer.request) {
                if let Reply::Waiting(it) = answer.reply {
                    return Ok(Progress::Waiting(it.ahead));
                }
                if let Reply::Error(error) = answer.reply {
                    return Err(CallError::Refused(error));
                }
                return A::try_from(answer.reply)
                    .map(Progress::Answered)
                    .map_err(|reply| CallError::Unexpected(reply.name()));
            }
        }
    }
}
