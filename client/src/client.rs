//! The control socket of one session: requests out, answers in.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use agentfs_proto::descriptor;
use agentfs_proto::frame::{self, LENGTH_WORD};
use agentfs_proto::message::{
    Call, FromDaemon, FsCall, FsEventBroadcast, FsRequest, Hello, MountInfo, MountServe, QueueOpen,
    QueueOpened, Reply, Request, ToDaemon, Welcome,
};
use agentfs_proto::socket::{self, SocketPathError};
use agentfs_proto::ssz::Ssz as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, sockopt};

use crate::deadline::Deadline;
use crate::error::{CallError, ConnectError};

/// One message of the daemon.
#[derive(Debug)]
pub struct Answer {
    /// The number of the request that it answers, or 0 for none.
    pub request: u64,
    /// Its content.
    pub reply: Reply,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// A queue and its descriptors, which [`QueueOpened`] explains.
#[derive(Debug)]
pub struct OpenQueue {
    /// The number of the queue and the size of its ring.
    pub opened: QueueOpened,
    /// The memory of the ring, which the consumer maps.
    pub ring: OwnedFd,
    /// The doorbell that the program rings when a full ring has room again.
    pub refill: OwnedFd,
    /// The doorbell that the daemon rings when a record waits and the program sleeps.
    pub doorbell: OwnedFd,
}

/// A session with the daemon. Dropping it ends the session with its queues, watches and open files.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use agentfs_client::{Client, Deadline};
/// use agentfs_proto::message::{FsStat, Hello};
///
/// let soon = Deadline::after(Duration::from_secs(5));
/// let (mut client, welcome) = Client::connect_default(Hello::new("example"), soon)?;
/// println!("session {} with process {}", welcome.session, welcome.daemon_pid);
/// let found = client.fs("", FsStat { path: "/src".into(), follow: true }, soon)?;
/// println!("{} bytes", found.size);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    last_request: u64,
    outgoing: Vec<u8>,
    sent: usize,
    incoming: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    truncated: bool,
    pub(crate) broadcasts: VecDeque<FsEventBroadcast>,
}

impl Client {
    /// Connects to the daemon at [`socket::default_path`] and shakes hands. Unless the environment
    /// named the path, its directory must be safe.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] when there is no daemon, or it refuses.
    pub fn connect_default(
        hello: Hello,
        deadline: Deadline,
    ) -> Result<(Self, Welcome), ConnectError> {
        let path = socket::default_path();
        let is_named = std::env::var_os(socket::SOCKET_VARIABLE).is_some_and(|it| !it.is_empty());
        if !is_named && path.exists() {
            socket::check(&path).map_err(ConnectError::Path)?;
        }
        Self::connect(&path, hello, deadline)
    }

    /// Connects to the daemon that listens at `path` and shakes hands.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] when there is no daemon, or it refuses.
    pub fn connect(
        path: &Path,
        hello: Hello,
        deadline: Deadline,
    ) -> Result<(Self, Welcome), ConnectError> {
        let socket = open_socket(path, deadline)?;
        let mut client = Self::over(socket);
        let welcome = client
            .call(hello, deadline)
            .map_err(ConnectError::Handshake)?;
        Ok((client, welcome))
    }

    /// Returns a client for a socket that is connected and non-blocking. Its first request has to be
    /// the [`Hello`].
    #[must_use]
    pub fn over(socket: OwnedFd) -> Self {
        Self {
            socket,
            last_request: 0,
            outgoing: Vec::new(),
            sent: 0,
            incoming: Vec::new(),
            descriptors: Vec::new(),
            truncated: false,
            broadcasts: VecDeque::new(),
        }
    }

    /// Sends a request and waits for its answer. Answers to earlier requests of [`send`](Self::send)
    /// are passed over.
    ///
    /// # Errors
    ///
    /// [`CallError`]; after [`Refused`](CallError::Refused) and [`Timeout`](CallError::Timeout) the
    /// session goes on.
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

    /// Sends a request without waiting for its answer, and returns its number.
    ///
    /// # Errors
    ///
    /// [`CallError`]. After [`Timeout`](CallError::Timeout) the rest of the frame goes out with the
    /// next request.
    pub fn send(&mut self, request: Request, deadline: Deadline) -> Result<u64, CallError> {
        self.send_with(request, &[], deadline)
    }

    fn send_with(
        &mut self,
        request: Request,
        mut descriptors: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<u64, CallError> {
        let number = self.last_request + 1;
        if self.sent == self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
        }
        frame::append(
            &ToDaemon {
                request: number,
                body: request,
            },
            &mut self.outgoing,
        )
        .map_err(CallError::Frame)?;
        self.last_request = number;
        while let Some(rest) = self
            .outgoing
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())
        {
            match descriptor::send(&self.socket, rest, descriptors) {
                Ok(len) => {
                    self.sent += len;
                    descriptors = &[];
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(number)
    }

    /// Waits for the next answer or broadcast.
    ///
    /// # Errors
    ///
    /// [`CallError`]; after [`Timeout`](CallError::Timeout) nothing is lost.
    pub fn receive(&mut self, deadline: Deadline) -> Result<Answer, CallError> {
        // First the length word alone, then the rest: so nothing of the next frame is read, and
        // descriptors cannot be taken for those of another frame.
        self.fill(LENGTH_WORD, deadline)?;
        let word = self.incoming.first_chunk().copied().unwrap_or_default();
        let len = frame::frame_len(word).map_err(CallError::Frame)?;
        self.fill(len, deadline)?;
        let message = FromDaemon::from_ssz(self.incoming.get(LENGTH_WORD..).unwrap_or_default());
        self.incoming.clear();
        let descriptors = std::mem::take(&mut self.descriptors);
        let truncated = std::mem::take(&mut self.truncated);
        let message = message.map_err(CallError::Malformed)?;
        let expected = usize::from(message.descriptors);
        if descriptors.len() != expected || truncated {
            return Err(CallError::Descriptors {
                expected,
                found: descriptors.len(),
            });
        }
        Ok(Answer {
            request: message.request,
            reply: message.body,
            descriptors,
        })
    }

    /// Waits for the next change that an [`EventsSubscribe`](agentfs_proto::message::EventsSubscribe) asked for.
    ///
    /// # Errors
    ///
    /// As [`receive`](Self::receive). Answers that nobody waits for are passed over.
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

    /// Reads until `incoming` has `target` bytes.
    fn fill(&mut self, target: usize, deadline: Deadline) -> Result<(), CallError> {
        while self.incoming.len() < target {
            let have = self.incoming.len();
            self.incoming.resize(target, 0);
            let got = descriptor::receive(
                &self.socket,
                self.incoming.get_mut(have..).unwrap_or_default(),
            );
            self.incoming
                .truncate(have + got.as_ref().map_or(0, |got| got.len));
            match got {
                Ok(got) => {
                    self.descriptors.extend(got.descriptors);
                    self.truncated |= got.truncated;
                    if got.len == 0 {
                        return Err(CallError::Closed);
                    }
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn wait(&self, what: PollFlags, deadline: Deadline) -> Result<(), CallError> {
        loop {
            let remaining = deadline.remaining();
            let timeout = remaining.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(&self.socket, what)], timeout.as_ref()) {
                Ok(0) => return Err(CallError::Timeout),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(CallError::Io(error)),
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open_socket(path: &Path, deadline: Deadline) -> Result<OwnedFd, ConnectError> {
    if path.as_os_str().len() > socket::MAX_PATH {
        return Err(ConnectError::Path(SocketPathError::TooLong(
            path.to_owned(),
        )));
    }
    let failed = |error| ConnectError::Io(path.to_owned(), error);
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let socket = new_socket().map_err(failed)?;
    // A full backlog makes connect wait, and a non-blocking connect fail at once: a timeout is in
    // between.
    if let Some(remaining) = deadline.remaining() {
        let wait = remaining.max(Duration::from_millis(1));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(wait)).map_err(failed)?;
    }
    rustix::io::retry_on_intr(|| connect(&socket, &address)).map_err(|error| match error {
        Errno::NOENT | Errno::CONNREFUSED => ConnectError::NoDaemon(path.to_owned()),
        Errno::AGAIN => ConnectError::Busy(path.to_owned()),
        other => failed(other),
    })?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(failed)?;
    Ok(socket)
}

#[cfg(not(target_vendor = "apple"))]
fn new_socket() -> rustix::io::Result<OwnedFd> {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

#[cfg(target_vendor = "apple")]
fn new_socket() -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    sockopt::set_socket_nosigpipe(&socket, true)?;
    Ok(socket)
}
