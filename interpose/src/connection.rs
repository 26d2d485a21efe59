//! The session with the daemon. Each process has one, made at its first watch on AgentFS.
//!
//! Requests that need an answer are made under a lock and with a deadline. A child of fork leaves its
//! parent's session alone and makes its own when it needs one; what its parent registered goes on.

use std::ffi::CString;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentfs_client::{CallError, Client, Deadline, OpenQueue};
use agentfs_proto::message::{
    Call, Hello, MountList, Ping, QueueKind, QueueOpen, RequestChannelOpen, Token,
};
use agentfs_proto::socket;
use agentfs_ring::requests::RequestWriter;

use crate::config::config;
use crate::fd_table::{self, Owner};
use crate::lock::Lock;
use crate::platform::{self, seconds};

/// How long the daemon may take for an answer: a daemon that is stopped must not stop programs.
const PATIENCE: Duration = Duration::from_millis(500);

/// For how many seconds the shim asks nothing of a daemon that took longer.
const BACK_OFF: u64 = 5;

/// The second from which on the shim asks the daemon again.
static BACKS_OFF_UNTIL: AtomicU64 = AtomicU64::new(0);

fn back_off() {
    BACKS_OFF_UNTIL.store(seconds() + BACK_OFF, Ordering::Relaxed);
}

fn is_backing_off() -> bool {
    let until = BACKS_OFF_UNTIL.load(Ordering::Relaxed);
    until != 0 && seconds() < until
}

/// Ends the back-off: there may be another daemon, which is asked even if the one before did not answer.
pub(crate) fn end_back_off() {
    BACKS_OFF_UNTIL.store(0, Ordering::Relaxed);
}

/// Returns whether the daemon did not answer in time, and may be asked again.
#[cfg(target_os = "linux")]
pub(crate) fn back_off_is_over() -> bool {
    BACKS_OFF_UNTIL.load(Ordering::Relaxed) != 0 && !is_backing_off()
}

/// The session of this process, as the process has it.
#[derive(Debug)]
struct ProcessSession {
    client: Client,
    /// Device and inode of the socket, to notice that its number has become another file's.
    socket: rustix::fs::Stat,
    requests: Option<Arc<RequestWriter>>,
    /// A number that no earlier session of this process had. It is not the daemon's number of the session.
    number: u64,
    /// A number that no earlier daemon had.
    instance: u64,
}

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

static SESSION: Lock<Option<ProcessSession>> = Lock::new(None);

/// A queue as the daemon has opened it.
#[derive(Debug)]
pub(crate) struct NewQueue {
    pub(crate) queue: OpenQueue,
    pub(crate) requests: Arc<RequestWriter>,
    /// The number of the session that the queue belongs to.
    pub(crate) session: u64,
    /// Which daemon opened the queue.
    pub(crate) instance: u64,
}

impl ProcessSession {
    fn open() -> Option<Self> {
        let path = socket_path()?;
        let fd = connect(&path)?;
        let socket = rustix::fs::fstat(&fd).ok()?;
        fd_table::set(fd.as_raw_fd(), Owner::Hidden);
        let mut client = Client::over(fd);
        let hello = Hello {
            token: config().token().and_then(Token::from_hex),
            ..Hello::new(&program_name())
        };
        let welcome = client.call(hello, deadline());
        let session = Self {
            client,
            socket,
            requests: None,
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            instance: welcome.as_ref().map_or(0, |it| it.instance),
        };
        if let Err(error) = welcome {
            if matches!(error, CallError::Timeout) {
                back_off();
            }
            session.end();
            return None;
        }
        Some(session)
    }

    /// Returns the number in 32 bits; a process does not have that many sessions.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it wraps after 2^32 sessions of one process"
    )]
    fn short_number(&self) -> u32 {
        self.number as u32
    }

    /// Returns whether the socket's number still is the socket.
    fn is_intact(&self) -> bool {
        rustix::fs::fstat(&self.client)
            .is_ok_and(|it| (it.st_dev, it.st_ino) == (self.socket.st_dev, self.socket.st_ino))
    }

    /// Closes the connection, unless its number is the program's by now.
    fn end(self) {
        if self.is_intact() {
            fd_table::set(self.client.as_fd().as_raw_fd(), Owner::Foreign);
        } else {
            self.abandon();
        }
    }

    fn abandon(self) {
        let _ = std::mem::ManuallyDrop::new(self);
    }

    fn requests(&mut self) -> Result<Arc<RequestWriter>, CallError> {
        if let Some(requests) = &self.requests {
            return Ok(Arc::clone(requests));
        }
        let request = RequestChannelOpen { flags: 0 };
        let (_, descriptors) = self.client.call_for_descriptors(request, deadline())?;
        let found = descriptors.len();
        let failed = CallError::Descriptors { expected: 1, found };
        let [fd] = <[OwnedFd; 1]>::try_from(descriptors).map_err(|_| failed)?;
        let writer = RequestWriter::open(fd)
            .map_err(|_| CallError::Unexpected("a descriptor of no request channel"))?;
        let requests = Arc::new(writer);
        self.requests = Some(Arc::clone(&requests));
        Ok(requests)
    }
}

fn deadline() -> Deadline {
    Deadline::after(PATIENCE)
}

fn socket_path() -> Option<PathBuf> {
    let config = config();
    let named = config.socket();
    let is_named = named.is_some();
    let uid = rustix::process::geteuid().as_raw();
    let path = socket::path_for(named, config.runtime_dir(), uid);
    // A directory that another user may write to is no place to look for the daemon.
    (is_named || socket::check(&path).is_ok()).then_some(path)
}

/// Returns the directory in which a new daemon makes its socket.
pub(crate) fn socket_directory() -> Option<CString> {
    let path = socket_path()?;
    CString::new(path.parent()?.as_os_str().as_bytes()).ok()
}

/// Returns the file into which a daemon writes when it listens.
#[cfg(target_os = "linux")]
pub(crate) fn restart_file() -> Option<CString> {
    let mut path = socket_path()?.into_os_string();
    path.push(socket::LOCK_SUFFIX);
    CString::new(path.as_bytes()).ok()
}

/// Connects a socket and gives it a high number.
fn connect(path: &Path) -> Option<OwnedFd> {
    use rustix::net::{SocketAddrUnix, connect, sockopt};
    let address = SocketAddrUnix::new(path).ok()?;
    let fd = platform::new_socket()?;
    // A full backlog makes connect wait, and makes a non-blocking connect fail at once.
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(PATIENCE)).ok()?;
    match rustix::io::retry_on_intr(|| connect(&fd, &address)) {
        Ok(()) => {}
        Err(rustix::io::Errno::AGAIN) => {
            back_off();
            return None;
        }
        Err(_) => return None,
    }
    rustix::io::ioctl_fionbio(&fd, true).ok()?;
    Some(crate::hidden_fd::move_up(fd))
}

/// Returns the name of the program, which the daemon's status shows.
fn program_name() -> String {
    platform::program_path()
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Makes a request in the session. A session is opened when there is none, and once more when the daemon
/// of the old one is gone. A daemon that does not answer keeps its session: its queues live, and it may
/// only be slow.
fn ask<R>(mut request: impl FnMut(&mut ProcessSession) -> Result<R, CallError>) -> Option<R> {
    SESSION.with(|session| {
        for _ in 0..2 {
            if is_backing_off() {
                return None;
            }
            let is_usable = session.as_ref().is_some_and(ProcessSession::is_intact);
            if !is_usable {
                if let Some(old) = session.take() {
                    old.end();
                }
                *session = ProcessSession::open();
            }
            match request(session.as_mut()?) {
                Ok(answer) => return Some(answer),
                Err(CallError::Refused(_)) => return None,
                Err(CallError::Timeout) => back_off(),
                Err(_) => {
                    if let Some(old) = session.take() {
                        old.end();
                    }
                }
            }
        }
        None
    })?
}

/// Returns `st_dev` of the mounts that the session may see, or `None` when there is no daemon.
pub(crate) fn mounts() -> Option<Vec<u64>> {
    ask(|session| {
        let mut mounts = Vec::new();
        let mut after = 0;
        loop {
            let page = session.client.call(MountList { after }, deadline())?;
            after = page.mounts.last().map_or(after, |it| it.id);
            let is_last = !page.more || page.mounts.is_empty();
            mounts.extend(page.mounts.iter().map(|it| it.st_dev));
            if is_last {
                return Ok(mounts);
            }
        }
    })
}

/// Opens a queue, and returns the number of its session with it.
pub(crate) fn open_queue(request: &QueueOpen) -> Option<(u32, OpenQueue)> {
    ask(|session| {
        let queue = session.client.open_queue(request.clone(), deadline())?;
        Ok((session.short_number(), queue))
    })
}

/// Makes a request in one session and no other. Returns `None` when that session has ended, or when the
/// daemon refuses.
pub(crate) fn request_in<C: Call + Clone>(session: u32, request: &C) -> Option<C::Answer> {
    SESSION.with(|current| {
        let current = current.as_mut()?;
        if is_backing_off() || current.short_number() != session || !current.is_intact() {
            return None;
        }
        match current.client.call(request.clone(), deadline()) {
            Ok(answer) => Some(answer),
            Err(CallError::Timeout) => {
                back_off();
                None
            }
            Err(_) => None,
        }
    })?
}

/// Opens the queue of an inotify instance.
pub(crate) fn open_inotify_queue() -> Option<NewQueue> {
    ask(|session| {
        let requests = session.requests()?;
        let request = QueueOpen {
            kind: QueueKind::Inotify,
            capacity: 0,
        };
        let queue = session.client.open_queue(request, deadline())?;
        Ok(NewQueue {
            queue,
            requests,
            session: session.number,
            instance: session.instance,
        })
    })
}

/// Has the daemon look into the request channels. Returns whether it did.
pub(crate) fn flush_requests() -> bool {
    ask(|session| session.client.call(Ping { nonce: 0 }, deadline())).is_some()
}

/// Returns whether the process that the socket leads to has closed it.
pub(crate) fn is_lost(session: u64) -> bool {
    SESSION
        .with(|current| {
            current
                .as_ref()
                .filter(|it| it.number == session && it.is_intact())
                .is_none_or(|it| has_hung_up(it.client.as_fd()))
        })
        .unwrap_or(false)
}

fn has_hung_up(socket: BorrowedFd<'_>) -> bool {
    agentfs_ring::doorbell::peer_is_gone(socket).unwrap_or(true)
}

/// Drops the session in a child of fork, because it is the parent's.
pub(crate) fn in_forked_child() {
    SESSION.break_open();
    SESSION.with(|session| {
        if let Some(parents) = session.take() {
            parents.abandon();
        }
    });
}
