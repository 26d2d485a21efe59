//! The event loop: one thread that waits for all connections and answers them in turns.

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
use std::time::{Duration, Instant};

use agentfs_core::id::SessionId;
use agentfs_proto::frame::MAX_FRAME;
use agentfs_proto::message::Reply;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};

use crate::base::config::Companion;
use crate::base::refill_id::RefillId;
use crate::base::refusal::Refusal;
use crate::base::reply::{LateReply, ReplyWithFds};
use crate::base::start_error::StartError;
use crate::base::wake::{Wake, WakeQueue};
use crate::event_loop::idle_shutdown::IdleShutdown;
use crate::event_loop::listener::Listener;
use crate::event_loop::presence::{Loss, Presence};
use crate::session::peer::Peer;
use crate::session::peer_session::{PeerSession, Served};
use crate::shared::services::Services;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(usize::MAX);
const DAMAGE: Token = Token(usize::MAX - 1);
const PRESENCE: Token = Token(usize::MAX - 2);

/// Connections accepted in one turn, so that a flood of them does not starve the sessions.
const ACCEPTS_PER_TURN: usize = 32;

/// How long to wait after the system refused a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct EventLoop {
    poll: Poll,
    listener: Listener,
    presence: Presence,
    /// What was removed, and when to make it again.
    loss: Option<(Instant, Loss)>,
    /// The socket was removed and cannot be made again.
    is_unreachable: bool,
    wakes: Arc<WakeQueue>,
    services: Arc<Services>,
    sessions: HashMap<SessionId, PeerSession>,
    last_session: u64,
    /// Sessions with something to do, each at most once.
    ready: VecDeque<SessionId>,
    /// Sessions that sent too much, by the time until which they wait.
    paused: BTreeSet<(Instant, SessionId)>,
    /// Connections without handshake, oldest first.
    greeting: VecDeque<(Instant, SessionId)>,
    /// Connections may be waiting.
    acceptable: bool,
    /// When to accept again, after the system had no descriptor left.
    accept_at: Option<Instant>,
    /// When to end, if nobody uses the daemon until then.
    idle_shutdown: Option<IdleShutdown>,
    buffer: Vec<u8>,
}

impl EventLoop {
    /// Creates a loop that serves a listener, with the services that `make_services` creates for
    /// it.
    pub(crate) fn new(
        listener: Listener,
        until_unused: bool,
        companion: Option<Companion>,
        make_services: impl FnOnce(&Arc<WakeQueue>, Registry) -> Result<Services, StartError>,
    ) -> Result<Self, StartError> {
        let poll = Poll::new().map_err(StartError::Io)?;
        let wakes = WakeQueue::new(poll.registry(), WAKER).map_err(StartError::Io)?;
        let wakes = Arc::new(wakes);
        let registry = poll.registry().try_clone().map_err(StartError::Io)?;
        let services = Arc::new(make_services(&wakes, registry)?);
        let attention = services.watches().attention();
        let presence = Presence::start(listener.path(), companion).map_err(StartError::Io)?;
        for (fd, token) in [
            (listener.socket().as_raw_fd(), LISTENER),
            (attention.as_raw_fd(), DAMAGE),
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
            wakes,
            sessions: HashMap::new(),
            last_session: 0,
            ready: VecDeque::new(),
            paused: BTreeSet::new(),
            greeting: VecDeque::new(),
            acceptable: true,
            accept_at: None,
            idle_shutdown: until_unused.then(|| IdleShutdown::starting(Instant::now())),
            buffer: vec![0; MAX_FRAME],
        })
    }

    pub(crate) fn wakes(&self) -> &Arc<WakeQueue> {
        &self.wakes
    }

    pub(crate) fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Serves until a [`Wake::Stop`] comes.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut wakes = Vec::new();
        loop {
            let now = Instant::now();
            let idle = self.idle_shutdown.as_ref().and_then(|it| it.timeout(now));
            let waits = [self.timeout(now), idle];
            match self
                .poll
                .poll(&mut events, waits.into_iter().flatten().min())
            {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.wakes.take(&mut wakes);
            if wakes.iter().any(|wake| matches!(wake, Wake::Stop)) {
                tracing::info!(sessions = self.sessions.len(), "ending");
                // Exports before the connections end: a program that waits for the end of its
                // connection looks for the exports then. An apply under way ends between two steps,
                // and the rest is exported.
                self.services.stops().end_all();
                self.services.save_changes();
                return Ok(());
            }
            self.handle_sent(&mut wakes);
            for wake in events.iter().filter_map(readiness) {
                self.handle(wake);
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
        if let Some(idle) = &mut self.idle_shutdown
            && idle.is_over(self.sessions.is_empty(), now, || self.services.is_idle())
        {
            tracing::info!("nobody uses this daemon any more");
            self.wakes.send(Wake::Stop);
        }
        let is_out_of_reach = self.is_unreachable && self.sessions.is_empty();
        if is_out_of_reach && !self.services.mounts().shows(None) {
            tracing::warn!("nobody can reach this daemon any more");
            self.wakes.send(Wake::Stop);
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

    /// Handles what other threads have sent.
    fn handle_sent(&mut self, wakes: &mut Vec<Wake>) {
        if wakes.is_empty() {
            return;
        }
        // Whatever ended may have been the last use of a branch, or of the daemon.
        self.services.tidy();
        self.note_use();
        for wake in wakes.drain(..) {
            self.handle(wake);
        }
        self.services.jobs().start_waiting();
    }

    /// Handles one wake: everything that the loop does begins here, or with the time.
    fn handle(&mut self, wake: Wake) {
        match wake {
            Wake::Connections => self.acceptable = true,
            Wake::Connection {
                session,
                has_hung_up,
            } => self.note_readiness(session, has_hung_up),
            Wake::Refill(refill) => {
                if let Some(queue) = self.services.refills().rung(refill) {
                    self.services.refill(queue);
                }
            }
            Wake::Removal => self.note_loss(),
            Wake::DamagedRings => {
                for session in self.services.watches().broken_sessions() {
                    self.end_damaged(session);
                }
            }
            Wake::DamagedChannel(session) => self.end_damaged(session),
            Wake::Broadcasts(session) => self.make_ready(session),
            Wake::LateReply(reply) => self.complete(*reply),
            // `handle_sent` does what waited for the end of a mount or for an answer, and `run` returns
            // before it handles a stop.
            Wake::MountEnded | Wake::Known | Wake::Stop => {}
        }
    }

    fn note_readiness(&mut self, id: SessionId, has_hung_up: bool) {
        if let Some(session) = self.sessions.get_mut(&id).filter(|_| has_hung_up) {
            session.hang_up();
            // The session waits for nothing any more.
            self.services.stops().end(id);
        }
        self.make_ready(id);
    }

    /// Passes a late reply to its session, and makes the sessions ready that wait for a job to end.
    fn complete(&mut self, late: LateReply) {
        let waiting = self.sessions.iter().filter(|(_, it)| it.is_waiting());
        let waiting: Vec<SessionId> = waiting.map(|(id, _)| *id).collect();
        waiting.into_iter().for_each(|id| self.make_ready(id));
        let is_end = |it: &ReplyWithFds| matches!(it.reply, Reply::Ending(_));
        if late.result.as_ref().is_ok_and(is_end) {
            // Sent here, because the session may have hung up and then has no turn any more.
            self.wakes.send(Wake::Stop);
        }
        if let Some(session) = self.sessions.get_mut(&late.session) {
            session.complete(late.request, late.result);
            self.make_ready(late.session);
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

    /// Ends connections that made no handshake in time.
    fn drop_silent(&mut self, now: Instant) {
        while let Some((until, id)) = self.greeting.front().copied() {
            let is_greeting = self.sessions.get(&id).is_some_and(PeerSession::is_greeting);
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
                    tracing::warn!(%error, "no connection can be accepted now");
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
        let mut session = PeerSession::new(id, stream, peer, &limits, now);
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

    /// Serves every ready session for one turn.
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

    /// Notes that a session or a mount has ended.
    fn note_use(&mut self) {
        if let Some(idle) = &mut self.idle_shutdown {
            idle.look_again();
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

/// Returns what the kernel says by an event. What other threads sent is [taken](WakeQueue::take)
/// whenever the loop wakes.
fn readiness(event: &Event) -> Option<Wake> {
    Some(match event.token() {
        LISTENER => Wake::Connections,
        WAKER => return None,
        DAMAGE => Wake::DamagedRings,
        PRESENCE => Wake::Removal,
        token => match RefillId::from_token(token) {
            Some(refill) => Wake::Refill(refill),
            None => Wake::Connection {
                session: session_of(token),
                has_hung_up: event.is_write_closed(),
            },
        },
    })
}

/// Returns the token of a session: an even number, as those of refill doorbells are odd.
fn token_of(id: SessionId) -> Token {
    Token(usize::try_from(id.0 * 2).unwrap_or(usize::MAX))
}

fn session_of(token: Token) -> SessionId {
    SessionId(token.0 as u64 / 2)
}
