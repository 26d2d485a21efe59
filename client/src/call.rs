//! Requests and their answers.

use std::os::fd::{BorrowedFd, OwnedFd};

use agentfs_proto::message::{
    Call, FsCall, FsEventBroadcast, FsRequest, MountInfo, MountServe, QueueOpen, Reply,
};

use crate::client::{Client, OpenQueue};
use crate::deadline::Deadline;
use crate::error::CallError;

impl Client {
    /// Sends a request and waits for its answer. Answers to earlier requests of [`send`](Self::send)
    /// are passed over.
    ///
    /// # Errors
    ///
    /// [`CallError`]; after [`Refused`](CallError::Refused) and [`Timeout`](CallError::Timeout) the
    /// session goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut client, soon) = (daemon::client()?, daemon::soon());
    /// use agentfs_client::CallError;
    /// use agentfs_proto::message::{BranchList, Ping};
    ///
    /// assert_eq!(client.call(Ping { nonce: 7 }, soon)?.value, 7);
    ///
    /// match client.call(BranchList { after: 0 }, soon) {
    ///     Ok(list) => println!("{} branches", list.branches.len()),
    ///     Err(CallError::Refused(error)) => println!("{}: {}", error.code, error.message),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn call<C: Call>(
        &mut self,
        request: C,
        deadline: Deadline,
    ) -> Result<C::Answer, CallError> {
        self.call_for_descriptors(request, deadline)
            .map(|(answer, _)| answer)
    }

    /// Sends a request as [`call`](Self::call) does, and returns the descriptors that came with the
    /// answer as well.
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
    /// use agentfs_proto::message::WatchDoorbell;
    ///
    /// let (given, descriptors) = client.call_for_descriptors(WatchDoorbell { queue: 1 }, soon)?;
    /// assert_eq!((given.queue, descriptors.len()), (1, 1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn call_for_descriptors<C: Call>(
        &mut self,
        request: C,
        deadline: Deadline,
    ) -> Result<(C::Answer, Vec<OwnedFd>), CallError> {
        let number = self.send(request.into(), deadline)?;
        self.answer_to(number, deadline)
    }

    /// Sends the one request that takes a descriptor: `/dev/fuse` of a mount that the caller has made.
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
    /// use std::os::fd::AsFd as _;
    ///
    /// use agentfs_proto::message::MountServe;
    ///
    /// # let device = std::fs::File::open("/dev/null")?; // stands for /dev/fuse
    /// let request = MountServe {
    ///     branch: "attempt-1".to_owned(),
    ///     path: "/mnt".into(),
    ///     st_dev: 41,
    ///     group: u32::MAX,
    /// };
    /// let mount = client.serve_mount(request, device.as_fd(), soon)?;
    /// assert_eq!(mount.branch_name, "attempt-1");
    /// # Ok(())
    /// # }
    /// ```
    pub fn serve_mount(
        &mut self,
        request: MountServe,
        device: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> Result<MountInfo, CallError> {
        let number = self.send_with(request.into(), &[device], deadline)?;
        self.answer_to(number, deadline).map(|(answer, _)| answer)
    }

    /// Waits for the answer to a request that was [sent](Self::send), with the descriptors that come
    /// along.
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
    /// use agentfs_proto::message::{Done, Ping};
    ///
    /// let number = client.send(Ping { nonce: 7 }.into(), soon)?;
    /// // Something else is done here.
    /// let (answer, _): (Done, _) = client.answer_to(number, soon)?;
    /// assert_eq!(answer.value, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn answer_to<A: TryFrom<Reply, Error = Reply>>(
        &mut self,
        number: u64,
        deadline: Deadline,
    ) -> Result<(A, Vec<OwnedFd>), CallError> {
        loop {
            let answer = self.receive(deadline)?;
            if let Reply::FsEventBroadcast(event) = answer.reply {
                self.broadcasts.push_back(event);
            } else if matches!(answer.reply, Reply::Waiting(_)) {
                // Its answer comes when it comes.
            } else if answer.request == number || answer.request == 0 {
                if let Reply::Error(error) = answer.reply {
                    return Err(CallError::Refused(error));
                }
                let reply = A::try_from(answer.reply)
                    .map_err(|reply| CallError::Unexpected(reply.name()))?;
                return Ok((reply, answer.descriptors));
            }
        }
    }

    /// Carries out an operation of the filesystem in a branch; an empty name is the session's own.
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
    /// use agentfs_proto::message::FsStat;
    ///
    /// let stat = FsStat { path: "/src/hello".into(), follow: true };
    /// assert_eq!(client.fs("attempt-1", stat, soon)?.size, 5);
    /// # Ok(())
    /// # }
    /// ```
    pub fn fs<C: FsCall>(
        &mut self,
        branch: &str,
        op: C,
        deadline: Deadline,
    ) -> Result<C::Answer, CallError> {
        let request = FsRequest {
            branch: branch.to_owned(),
            op: op.into(),
        };
        C::Answer::try_from(self.call(request, deadline)?)
            .map_err(|reply| CallError::Unexpected(reply.name()))
    }

    /// Opens a queue and returns its three descriptors.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    ///
    /// # Examples
    ///
    /// What [`Subscription`](crate::Subscription) does:
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut client, soon) = (daemon::client()?, daemon::soon());
    /// use agentfs_proto::message::{QueueKind, QueueOpen};
    /// use agentfs_ring::Consumer;
    ///
    /// let open = QueueOpen { kind: QueueKind::Native, capacity: 0 };
    /// let queue = client.open_queue(open, soon)?;
    /// let consumer = Consumer::open(queue.ring)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn open_queue(
        &mut self,
        request: QueueOpen,
        deadline: Deadline,
    ) -> Result<OpenQueue, CallError> {
        let (opened, descriptors) = self.call_for_descriptors(request, deadline)?;
        let [ring, refill, doorbell] =
            <[OwnedFd; 3]>::try_from(descriptors).map_err(|descriptors| {
                CallError::Descriptors {
                    expected: 3,
                    found: descriptors.len(),
                }
            })?;
        Ok(OpenQueue {
            opened,
            ring,
            refill,
            doorbell,
        })
    }

    /// Waits for the next change that an [`EventsSubscribe`](agentfs_proto::message::EventsSubscribe) asked for.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive). Answers that no caller waits for are passed over.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut client, soon) = (daemon::client()?, daemon::soon());
    /// use agentfs_proto::message::EventsSubscribe;
    ///
    /// client.call(EventsSubscribe { path: "/src".into(), activity: false }, soon)?;
    /// let event = client.next_broadcast(soon)?;
    /// assert_eq!(event.path.as_path().to_str(), Some("/src/hello"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_broadcast(&mut self, deadline: Deadline) -> Result<FsEventBroadcast, CallError> {
        loop {
            if let Some(event) = self.broadcasts.pop_front() {
                return Ok(event);
            }
            if let Reply::FsEventBroadcast(event) = self.receive(deadline)?.reply {
                return Ok(event);
            }
        }
    }
}
