//! The control socket of one session: requests out, answers in.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use agentfs_proto::descriptor;
use agentfs_proto::frame::{self, LENGTH_WORD};
use agentfs_proto::message::{
    FromDaemon, FsEventBroadcast, Hello, QueueOpened, Reply, Request, ToDaemon, Welcome,
};
use agentfs_proto::socket;
use agentfs_proto::ssz::Ssz as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::connect::open_socket;
use crate::deadline::Deadline;
use crate::error::{CallError, ConnectError};

/// One message of the daemon, as [`Client::receive`] returns it.
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
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = daemon::start()?;
/// use std::time::Duration;
///
/// use agentfs_client::{Client, Deadline};
/// use agentfs_proto::message::{FsStat, Hello};
///
/// let soon = Deadline::after(Duration::from_secs(5));
/// let (mut client, welcome) = Client::connect(&path, Hello::new("example"), soon)?;
/// println!("session {} with process {}", welcome.session, welcome.daemon_pid);
/// let found = client.fs("", FsStat { path: "/src/hello".into(), follow: true }, soon)?;
/// println!("{} bytes", found.size);
/// # Ok(())
/// # }
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
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use agentfs_client::{Client, Deadline};
    /// use agentfs_proto::message::Hello;
    ///
    /// let (client, welcome) = Client::connect_default(Hello::new("example"), Deadline::NEVER)?;
    /// println!("in branch {}", welcome.branch_name);
    /// # Ok::<(), agentfs_client::ConnectError>(())
    /// ```
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
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (path, soon) = (daemon::start()?, daemon::soon());
    /// use agentfs_client::{Client, ConnectError};
    /// use agentfs_proto::message::Hello;
    ///
    /// let (client, welcome) = Client::connect(&path, Hello::new("example"), soon)?;
    /// assert_eq!(welcome.branch_name, "main");
    ///
    /// let nobody = Client::connect("/nobody/listens/here".as_ref(), Hello::new("example"), soon);
    /// assert!(matches!(nobody, Err(ConnectError::NoDaemon(_))));
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (path, soon) = (daemon::start()?, daemon::soon());
    /// use std::os::unix::net::UnixStream;
    ///
    /// use agentfs_client::Client;
    /// use agentfs_proto::message::Hello;
    ///
    /// let socket = UnixStream::connect(path)?;
    /// socket.set_nonblocking(true)?;
    /// let mut client = Client::over(socket.into());
    /// let welcome = client.call(Hello::new("example"), soon)?;
    /// # Ok(())
    /// # }
    /// ```
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

    /// Sends a request without waiting for its answer, and returns its number.
    ///
    /// # Errors
    ///
    /// [`CallError`]. After [`Timeout`](CallError::Timeout) the rest of the frame goes out with the
    /// next request.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut client, soon) = (daemon::client()?, daemon::soon());
    /// use agentfs_proto::message::{Done, Ping};
    ///
    /// let first = client.send(Ping { nonce: 1 }.into(), soon)?;
    /// let second = client.send(Ping { nonce: 2 }.into(), soon)?;
    /// for (number, nonce) in [(first, 1), (second, 2)] {
    ///     let (answer, _): (Done, _) = client.answer_to(number, soon)?;
    ///     assert_eq!(answer.value, nonce);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn send(&mut self, request: Request, deadline: Deadline) -> Result<u64, CallError> {
        self.send_with(request, &[], deadline)
    }

    pub(crate) fn send_with(
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
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut client, soon) = (daemon::client()?, daemon::soon());
    /// use agentfs_proto::message::{Ping, Reply};
    ///
    /// let number = client.send(Ping { nonce: 7 }.into(), soon)?;
    /// let answer = client.receive(soon)?;
    /// assert_eq!(answer.request, number);
    /// assert!(matches!(answer.reply, Reply::Done(done) if done.value == 7));
    /// # Ok(())
    /// # }
    /// ```
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
