//! One thread that waits for all connections and answers them in turns.

pub(crate) mod claim;
pub(crate) mod idle_shutdown;
pub(crate) mod listener;
pub(crate) mod presence;
mod reach;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agentfs_core::id::SessionId;
use agentfs_proto::frame::MAX_FRAME;
use agentfs_proto::message::Reply;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use crate::Companion;
use crate::base::refusal::Refusal;
use crate::base::reply::Answer;
use crate::daemon::StartError;
use crate::event_loop::idle_shutdown::Unused;
use crate::event_loop::listener::Listener;
use crate::event_loop::presence::{Loss, Presence};
use crate::requests::watches::RefillId;
use crate::session::peer::Peer;
use crate::session::peer_session::{Served, Session};
use crate::shared::services::Services;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(usize::MAX);
const ATTENTION: Token = Token(usize::MAX - 1);
const PRESENCE: Token = Token(usize::MAX - 2);

/// Connections accepted in one turn, so that a flood of them does not starve who is connected.
const ACCEPTS_PER_TURN: usize = 32;

/// How long to wait after the system refused a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What other threads may do with the event loop.
#[derive(Debug)]
pub(crate) struct Control {
    stop: AtomicBool,
    waker: Waker,
}

impl Control {
    /// Makes the event loop end after its turn.
    pub(crate) fn stop(&self) {
        // Release: pairs with the loop's Acquire; it ends after what was done before.
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Makes the event loop look at what the sinks left for it.
    pub(crate) fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "the event loop cannot be woken");
        }
    }
}

pub(crate) struct EventLoop {
    poll: Poll,
    listener: Listener,
    presence: Presence,
    /// What was removed, and when it is made again.
    loss: Option<(Instant, Loss)>,
    /// The socket was removed and cannot be made again.
    is_unreachable: bool,
    control: Arc<Control>,
    services: Arc<Services>,
    sessions: HashMap<SessionId, Session>,
    last_session: u64,
    /// Sessions with something to do, each at most once.
    ready: VecDeque<SessionId>,
    /// Sessions that sent too much, until when they wait.
    paused: BTreeSet<(Instant, SessionId)>,
    /// Connections without handshake, oldest first.
    greeting: VecDeque<(Instant, SessionId)>,
    /// Connections may be waiting.
    acceptable: bool,
    /// No descriptors: when to try again.
    accept_at: Option<Instant>,
    /// When to end, if nobody uses the daemon until then.
    unused: Option<Unused>,
    buffer: Vec<u8>,
}

impl EventLoop {
    /// A loop that listens, and what `make_services` makes for it.
    pub(crate) fn new(
        listener: Listener,
        until_unused: bool,
        companion: Option<Companion>,
        make_services: impl FnOnce(&Arc<Control>, Registry) -> Result<Services, StartError>,
    ) -> Result<Self, StartError> {
        let poll = Poll::new().map_err(StartError::Io)?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(StartError::Io)?;
        let control = Arc::new(Control {
            stop: AtomicBool::new(false),
            waker,
        });
        let registry = poll.registry().try_clone().map_err(StartError::Io)?;
        let services = Arc::new(make_services(&control, registry)?);
        let attention = services.watches().attention();
        let presence = Presence::start(listener.path(), companion).map_err(StartError::Io)?;
        for (fd, token) in [
            (listener.socket().as_raw_fd(), LISTENER),
            (attention.as_raw_fd(), ATTENTION),
            (presence.as_raw_fd(), PRESENCE),
        ] {
            let register = poll
                .registry()
                .register(&mut SourceFd(&fd), token, Interest::READABLE);
            register.map_err(StartError::Io)?;
        }
        Ok(Self {
            poll,
            listener,
            presence,
            loss: None,
            is_unreachable: false,
            services,
            control,
            sessions: HashMap::new(),
            last_session: 0,
            ready: VecDeque::new(),
            paused: BTreeSet::new(),
            greeting: VecDeque::new(),
            acceptable: true,
            accept_at: None,
            unused: until_unused.then(|| Unused::starting(Instant::now())),
            buffer: vec![0; MAX_FRAME],
        })
    }

    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    pub(crate) fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Serves until it is told to stop.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            let now = Instant::now();
            let unused = self.unused.as_ref().and_then(|it| it.timeout(now));
            let waits = [self.timeout(now), unused];
            match self
                .poll
                .poll(&mut events, waits.into_iter().flatten().min())
            {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            if self.control.stop.load(Ordering::Acquire) {
                tracing::info!(sessions = self.sessions.len(), "ending");
                // Before the connections end: whoever waits for one looks what was exported then.
                // What is applied just then ends between two steps, and the rest is exported.
                self.services.stops().end_all();
                self.services.save_changes();
                return Ok(());
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.acceptable = true,
                    WAKER => self.collect(),
                    ATTENTION => self.end_condemned(),
                    PRESENCE => self.note_loss(),
                    token => self.dispatch(token, event.is_write_closed()),
                }
            }
            events.clear();
            let now = Instant::now();
            self.resume_paused(now);
            self.drop_silent(now);
            self.accept(now);
            self.serve_ready(now);
            self.stay_reachable(now);
            self.end_when_unused(now);
        }
    }

    fn end_when_unused(&mut self, now: Instant) {
        if let Some(unused) = &mut self.unused
            && unused.is_over(self.sessions.is_empty(), now, || self.services.is_idle())
        {
            tracing::info!("nobody uses this daemon any more");
            self.control.stop();
        }
        let is_out_of_reach = self.is_unreachable && self.sessions.is_empty();
        if is_out_of_reach && !self.services.mounts().shows(None) {
            tracing::warn!("nobody can reach this daemon any more");
            self.control.stop();
        }
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        if !self.ready.is_empty() || (self.acceptable && self.accept_at.is_none()) {
            return Some(Duration::ZERO);
        }
        let paused = self.paused.first().map(|(until, _)| *until);
        let greeting = self.greeting.front().map(|(until, _)| *until);
        let loss = self.loss.map(|(at, _)| at);
        let next = [paused, greeting, self.accept_at, loss]
            .into_iter()
            .flatten()
            .min()?;
        // mio rounds up to milliseconds, so nothing spins until the time has come.
        Some(next.saturating_duration_since(now))
    }

    fn dispatch(&mut self, token: Token, has_hung_up: bool) {
        if let Some(refill) = RefillId::from_token(token) {
            if let Some(queue) = self.services.refills().rung(refill) {
                self.services.watches().refill(&queue);
            }
        } else {
            let id = session_of(token);
            if let Some(session) = self.sessions.get_mut(&id).filter(|_| has_hung_up) {
                session.hang_up();
                // It waits for nothing any more.
                self.services.stops().end(id);
            }
            self.make_ready(id);
        }
    }

    /// What other threads left for this one.
    fn collect(&mut self) {
        self.services.tidy();
        self.note_use();
        for id in self.services.broadcasts().sessions_with_events() {
            self.make_ready(id);
        }
        let ended = self.services.jobs().done();
        if !ended.is_empty() {
            let waiting = self.sessions.iter().filter(|(_, it)| it.is_waiting());
            let waiting: Vec<SessionId> = waiting.map(|(id, _)| *id).collect();
            waiting.into_iter().for_each(|id| self.make_ready(id));
        }
        for done in ended {
            let is_end = |answer: &Answer| matches!(answer.reply, Reply::Ending(_));
            if done.result.as_ref().is_ok_and(is_end) {
                self.services.end().want();
                // It may have hung up, and then nobody has a turn.
                self.control.stop();
            }
            if let Some(session) = self.sessions.get_mut(&done.session) {
                session.complete(done.request, done.result);
                self.make_ready(done.session);
            }
        }
        self.services.jobs().start_waiting();
        for id in self.services.registrations().broken() {
            self.end_damaged(id);
        }
    }

    /// Ends sessions whose program wrote nonsense into a ring.
    fn end_condemned(&mut self) {
        for id in self.services.watches().broken_sessions() {
            self.end_damaged(id);
        }
    }

    fn end_damaged(&mut self, id: SessionId) {
        tracing::warn!(session = %id, "the program damaged its shared memory");
        self.services.counters().sessions_refused();
        self.end(id);
    }

    fn make_ready(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id)
            && session.mark_ready()
        {
            self.ready.push_back(id);
        }
    }

    fn resume_paused(&mut self, now: Instant) {
        while let Some((until, id)) = self.paused.first().copied() {
            if until > now {
                return;
            }
            self.paused.pop_first();
            if let Some(session) = self.sessions.get_mut(&id) {
                session.resume();
            }
            self.make_ready(id);
        }
    }

    /// Ends connections that never said hello.
    fn drop_silent(&mut self, now: Instant) {
        while let Some((until, id)) = self.greeting.front().copied() {
            let is_greeting = self.sessions.get(&id).is_some_and(Session::is_greeting);
            if is_greeting && until > now {
                return;
            }
            self.greeting.pop_front();
            if is_greeting {
                tracing::debug!(session = %id, "no handshake in time");
                self.end(id);
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        if self.accept_at.is_some_and(|at| at > now) || !self.acceptable {
            return;
        }
        self.accept_at = None;
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.socket().accept() {
                Ok((stream, _)) => {
                    if let Err(error) = self.admit(stream, now) {
                        tracing::warn!(%error, "a connection could not be set up");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.acceptable = false;
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection can be taken now");
                    self.accept_at = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: UnixStream, now: Instant) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let peer = Peer::of(&stream)?;
        let limits = self.services.limits();
        if !peer.is_trusted() {
            tracing::warn!(
                pid = peer.pid,
                uid = peer.uid,
                "a process of another user was refused"
            );
            return Ok(());
        }
        let is_full = self.sessions.len() >= limits.sessions;
        self.last_session += 1;
        let id = SessionId(self.last_session);
        let greet_until = now + limits.handshake;
        let mut session = Session::new(id, stream, peer, &limits, now);
        if is_full {
            let text = format!(
                "the daemon has its {} sessions; end one, or raise --max-sessions",
                limits.sessions
            );
            session.refuse(Refusal::limit(text));
            return Ok(());
        }
        let fd = session.raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), token_of(id), interest)?;
        self.sessions.insert(id, session);
        self.greeting.push_back((greet_until, id));
        self.services.counters().sessions_opened();
        // What came with the connection raises no further event.
        self.make_ready(id);
        Ok(())
    }

    /// Gives every ready session one turn.
    fn serve_ready(&mut self, now: Instant) {
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else {
                return;
            };
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            match session.serve(&self.services, &mut self.buffer, now) {
                Served::Idle if session.is_abandoned(&self.services) => self.end(id),
                Served::Idle => {}
                Served::More => self.make_ready(id),
                Served::Until(until) => {
                    self.paused.insert((until, id));
                }
                Served::Gone => self.end(id),
            }
            if self.services.end().is_wanted() {
                self.control.stop();
            }
        }
    }

    fn end(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        let fd = session.raw_fd();
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&fd)) {
            tracing::warn!(session = %id, %error, "a connection cannot be forgotten");
        }
        session.end(&self.services);
        self.note_use();
    }

    /// A session or a mount has ended.
    fn note_use(&mut self) {
        if let Some(unused) = &mut self.unused {
            unused.look_again();
        }
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.services.stops().end_all();
        self.services.mounts().close();
        for (_, session) in self.sessions.drain() {
            session.end(&self.services);
        }
        self.services.jobs().finish();
    }
}

/// Even tokens; those of refill doorbells are odd.
fn token_of(id: SessionId) -> Token {
    Token(usize::try_from(id.0 * 2).unwrap_or(usize::MAX))
}

fn session_of(token: Token) -> SessionId {
    SessionId(token.0 as u64 / 2)
}
