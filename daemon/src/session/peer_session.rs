//! One session: its handshake, its turns, and the order of its replies.

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use agentfs_core::id::SessionId;
use agentfs_proto::message::{
    Code, Hello, Request, ToDaemon, VERSION_MAX, VERSION_MIN, Waiting, Welcome,
};
use agentfs_proto::ssz::Ssz as _;

use tracing::Span;
use tracing::field::Empty;

use crate::base::refusal::Refusal;
use crate::base::reply::ReplyWithFds;
use crate::base::session_limits::SessionLimits;
use crate::requests::open_session::OpenSession;
use crate::requests::work::Work;
use crate::session::connection::{Connection, Filled};
use crate::session::frame_budget::FrameBudget;
use crate::session::peer::Peer;
use crate::shared::jobs::Started;
use crate::shared::services::Services;

/// Frames that a session may send in one turn.
const FRAMES_PER_TURN: usize = 64;

/// One connected process, as the event loop serves it.
#[derive(Debug)]
pub(crate) struct PeerSession {
    id: SessionId,
    connection: Connection,
    peer: Peer,
    budget: FrameBudget,
    turn: Turn,
    /// The span of the request that a job carries out: what comes after it waits, so that replies
    /// keep the order of the requests.
    busy: Option<Span>,
    /// The peer has closed the connection, so no reply is read.
    has_hung_up: bool,
    /// A request that waits for a branch; those that come after it wait too.
    waiting: Option<ToDaemon>,
    state: State,
    /// The span around everything that is done for the session.
    span: Span,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// There is nothing to do until the socket is ready.
    Waiting,
    /// The session is in the queue of those that have something to do.
    Queued,
    /// The session sent too much, and its socket is not read for now.
    Paused,
}

#[derive(Debug)]
enum State {
    Greeting,
    Open(Box<OpenSession>),
}

/// How a turn ended.
#[derive(Debug)]
pub(crate) enum Served {
    /// Nothing is left to do.
    Idle,
    /// There is more to do.
    More,
    /// The session sent too much and waits.
    Until(Instant),
    /// The connection is over.
    Gone,
}

impl PeerSession {
    pub(crate) fn new(
        id: SessionId,
        stream: UnixStream,
        peer: Peer,
        limits: &SessionLimits,
        now: Instant,
    ) -> Self {
        Self {
            id,
            connection: Connection::new(stream),
            peer,
            budget: FrameBudget::new(limits, now),
            turn: Turn::Waiting,
            busy: None,
            has_hung_up: false,
            waiting: None,
            state: State::Greeting,
            // The level is debug, so that lines logged by default stay as short as they are.
            span: tracing::debug_span!("session", %id, pid = peer.pid, program = Empty),
        }
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.connection.stream().as_raw_fd()
    }

    pub(crate) fn is_greeting(&self) -> bool {
        matches!(self.state, State::Greeting)
    }

    /// Notes that the session has something to do. Returns whether to queue it for a turn.
    pub(crate) fn mark_ready(&mut self) -> bool {
        let is_new = self.turn == Turn::Waiting;
        if is_new {
            self.turn = Turn::Queued;
        }
        is_new
    }

    /// Ends a pause.
    pub(crate) fn resume(&mut self) {
        if self.turn == Turn::Paused {
            self.turn = Turn::Waiting;
        }
    }

    /// Notes that the other side has closed the connection.
    pub(crate) fn hang_up(&mut self) {
        self.has_hung_up = true;
    }

    /// Returns whether the session has gone while its request still waits for its turn.
    pub(crate) fn is_abandoned(&self, services: &Services) -> bool {
        self.has_hung_up && self.busy.is_some() && services.jobs().is_waiting(self.id)
    }

    /// Returns whether a request of the session waits for the end of a job.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Sends why there will be no session, as far as the socket takes it at once.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.connection.push(0, refusal.into_reply(), Vec::new());
        if let Err(error) = self.connection.flush() {
            tracing::debug!(session = %self.id, %error, "a refusal was not heard");
        }
    }

    /// Reads requests, answers them and sends replies, for one turn.
    pub(crate) fn serve(&mut self, services: &Services, buffer: &mut [u8], now: Instant) -> Served {
        let span = self.span.clone();
        let _entered = span.enter();
        self.turn = Turn::Waiting;
        if let State::Open(open) = &self.state
            && !self.connection.is_stalled()
        {
            for frame in open.take_broadcasts(services) {
                self.connection.push_frame(frame, Vec::new());
            }
        }
        let served = self.answer_frames(services, buffer, now);
        let was_stalled = self.connection.is_stalled();
        if let Err(error) = self.connection.flush() {
            tracing::debug!(session = %self.id, %error, "the connection broke");
            return Served::Gone;
        }
        match &served {
            // What stalled the session may have been sent just now, and then nothing else wakes it.
            Served::Idle if was_stalled && !self.connection.is_stalled() => Served::More,
            Served::Until(_) => {
                self.turn = Turn::Paused;
                served
            }
            Served::Idle | Served::More | Served::Gone => served,
        }
    }

    fn answer_frames(&mut self, services: &Services, buffer: &mut [u8], now: Instant) -> Served {
        for _ in 0..FRAMES_PER_TURN {
            if self.busy.is_some() || self.connection.is_stalled() {
                return Served::Idle;
            }
            if let Some(message) = self.waiting.take() {
                // No request that waits takes a descriptor.
                self.answer(message, None, services);
                if self.is_waiting() {
                    return Served::Idle;
                }
                continue;
            }
            // What the program wrote into its request channel took time, too.
            self.budget.charge(services.registrations().charge(self.id));
            if let Err(until) = self.budget.take(now) {
                services.counters().throttled();
                return Served::Until(until);
            }
            let message = match self.connection.message() {
                Ok(None) => {
                    self.budget.put_back();
                    match self.connection.fill(buffer) {
                        Ok(Filled::Some) => continue,
                        Ok(Filled::Nothing) => return Served::Idle,
                        Ok(Filled::End) => return Served::Gone,
                        Err(error) => {
                            tracing::debug!(session = %self.id, %error, "the connection broke");
                            return Served::Gone;
                        }
                    }
                }
                Ok(Some(bytes)) => ToDaemon::from_ssz(bytes).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let handled = match message {
                Ok(message) => self.handle(message, services),
                Err(error) => Err(Refusal::new(Code::MALFORMED, error)),
            };
            if self.is_waiting() {
                return Served::Idle;
            }
            if let Err(refusal) = handled {
                // The stream cannot be trusted any further.
                services.counters().sessions_refused();
                tracing::debug!(session = %self.id, pid = self.peer.pid, reason = %refusal.0.message, "session refused");
                self.refuse(refusal);
                return Served::Gone;
            }
        }
        Served::More
    }

    /// Answers one message. A refusal returned from here ends the connection.
    fn handle(&mut self, message: ToDaemon, services: &Services) -> Result<(), Refusal> {
        let ToDaemon { request, body } = message;
        if request == 0 {
            return Err(Refusal::new(
                Code::MALFORMED,
                "requests are numbered from 1",
            ));
        }
        services.counters().requests();
        // A descriptor that this request does not take is taken by none.
        let descriptor = self.connection.take_descriptor();
        match &mut self.state {
            State::Greeting => {
                let Request::Hello(hello) = body else {
                    return Err(Refusal::new(
                        Code::HANDSHAKE,
                        "the first request must be Hello",
                    ));
                };
                let span = request_span("Hello");
                let welcome = span.in_scope(|| self.open(hello, services))?;
                self.connection.push(request, welcome.into(), Vec::new());
            }
            State::Open(_) if matches!(body, Request::Hello(_)) => {
                return Err(Refusal::new(Code::HANDSHAKE, "the session is open already"));
            }
            State::Open(_) => self.answer(ToDaemon { request, body }, descriptor, services),
        }
        Ok(())
    }

    /// Answers a request, or makes it wait.
    fn answer(&mut self, message: ToDaemon, descriptor: Option<OwnedFd>, services: &Services) {
        let State::Open(open) = &mut self.state else {
            return;
        };
        if open.must_wait(&message.body, services) {
            self.waiting = Some(message);
            return;
        }
        let ToDaemon { request, body } = message;
        let name = body.name();
        let span = request_span(name);
        let entered = span.enter();
        let answered = match open.answer(body, descriptor, services) {
            Ok(Work::Done(answer)) => Ok(answer),
            Ok(Work::Job(job)) => match services.jobs().start(self.id, request, job) {
                Ok(started) => {
                    drop(entered);
                    self.busy = Some(span);
                    if self.has_hung_up {
                        // The request and the end of the connection came together.
                        services.stops().end(self.id);
                    }
                    if let Started::Waiting(ahead) = started {
                        let ahead = ahead as u64;
                        self.connection
                            .push(request, Waiting { ahead }.into(), Vec::new());
                    }
                    return;
                }
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        self.push(request, name, answered);
    }

    fn push(&mut self, request: u64, name: &str, answered: Result<ReplyWithFds, Refusal>) {
        let ReplyWithFds { reply, descriptors } = answered.unwrap_or_else(|refusal| {
            let reason = &refusal.0.message;
            tracing::debug!(session = %self.id, request = name, reason, "refused");
            ReplyWithFds {
                reply: refusal.into_reply(),
                descriptors: Vec::new(),
            }
        });
        self.connection.push(request, reply, descriptors);
    }

    /// Sends the reply of a request that a job has carried out.
    pub(crate) fn complete(&mut self, request: u64, result: Result<ReplyWithFds, Refusal>) {
        let (session, request_span) = (self.span.clone(), self.busy.take());
        let _in_session = session.enter();
        let _in_request = request_span.as_ref().map(Span::enter);
        self.push(request, "a long request", result);
    }

    fn open(&mut self, hello: Hello, services: &Services) -> Result<Welcome, Refusal> {
        if hello.version_min > VERSION_MAX || hello.version_max < VERSION_MIN {
            let text = format!(
                "this daemon speaks protocol versions {VERSION_MIN} to {VERSION_MAX}, the program {} \
                 to {}; use programs of one AgentFS release",
                hello.version_min, hello.version_max
            );
            return Err(Refusal::new(Code::VERSION, text));
        }
        let version = hello.version_max.min(VERSION_MAX);
        let (branch, branch_name) = services.branch_of_session(&hello)?;
        let limits = services.limits();
        self.span.record("program", &*hello.program);
        tracing::debug!(session = %self.id, pid = self.peer.pid, program = hello.program, branch = branch_name, "session");
        let bound = hello.token.is_some();
        let open = OpenSession::new(
            self.id,
            self.peer.pid,
            self.peer.caller(),
            hello.program,
            branch,
            bound,
        );
        services
            .sessions()
            .insert(self.id, Arc::clone(open.public()));
        services.watches().open_session(self.id, branch);
        self.state = State::Open(Box::new(open));
        Ok(Welcome {
            version,
            session: self.id.0,
            branch: branch.0,
            branch_name,
            daemon_pid: std::process::id(),
            instance: services.instance(),
            max_queues: limits.queues,
            max_watches: limits.watches,
        })
    }

    /// Ends the session: everything that it had is given back.
    pub(crate) fn end(self, services: &Services) {
        let _entered = self.span.enter();
        if let State::Open(open) = self.state {
            open.end(services);
        }
        services.counters().sessions_closed();
    }
}

/// Creates the span of a request. A job that carries it out enters the same one.
fn request_span(kind: &'static str) -> Span {
    tracing::debug_span!("request", kind)
}
