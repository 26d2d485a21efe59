//! One kqueue: its knotes, the order in which they became active, and its descriptor.
//!
//! The descriptor is an epoll instance over an eventfd (raised while a knote is queued) and two inner
//! epoll instances (descriptors that knotes of EVFILT_READ and EVFILT_WRITE look at), so poll, select
//! and a further queue find it readable exactly when an event can be fetched.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::abi::{self, Event, Flavour};
use crate::knote::{After, Knote, Life, Source};
use crate::{queue_table, sys};

const BELL: u64 = 0;
const READERS: u64 = 1;
const WRITERS: u64 = 2;

#[derive(Debug)]
pub(crate) struct Queue {
    /// A copy of the program's descriptor: waiting goes on when the program closes its number.
    epoll: OwnedFd,
    state: Mutex<State>,
    asleep: Condvar,
}

#[derive(Debug)]
struct State {
    bell: OwnedFd,
    bell_is_up: bool,
    readers: OwnedFd,
    writers: OwnedFd,
    closed: bool,
    sleepers: usize,
    flavour: Option<Flavour>,
    next_id: u64,
    ids: HashMap<abi::Key, u64>,
    knotes: HashMap<u64, Knote>,
    active: VecDeque<u64>,
}

impl Queue {
    /// Makes a queue and the descriptor for the program.
    pub(crate) fn new() -> Result<(Arc<Self>, OwnedFd), Errno> {
        let epoll = sys::new_epoll()?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (readers, writers) = (sys::new_epoll()?, sys::new_epoll()?);
        sys::watch(&epoll, &bell, BELL, EventFlags::IN)?;
        sys::watch(&epoll, &readers, READERS, EventFlags::IN)?;
        sys::watch(&epoll, &writers, WRITERS, EventFlags::IN)?;
        let handed_out = rustix::io::fcntl_dupfd_cloexec(&epoll, 3)?;
        let state = State {
            bell,
            bell_is_up: false,
            readers,
            writers,
            closed: false,
            sleepers: 0,
            flavour: None,
            next_id: 1,
            ids: HashMap::new(),
            knotes: HashMap::new(),
            active: VecDeque::new(),
        };
        let queue = Self {
            epoll,
            state: Mutex::new(state),
            asleep: Condvar::new(),
        };
        Ok((Arc::new(queue), handed_out))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Latches the flavour by the first call (`xnu: kevent_get_kqfile`).
    pub(crate) fn latch(&self, flavour: Flavour) -> Result<(), Errno> {
        let mut state = self.lock();
        match *state.flavour.get_or_insert(flavour) {
            latched if latched == flavour => Ok(()),
            _ => Err(Errno::INVAL),
        }
    }

    /// Applies one change; `change.flags` is simplified as the kernel does.
    pub(crate) fn register(&self, change: &mut Event) -> Result<(), Errno> {
        let mut state = self.lock();
        let result = state.register(self, change);
        state.settle();
        result
    }

    /// Posts `hint` to every EVFILT_VNODE knote of the file.
    pub(crate) fn post(&self, node: (u64, u64), hint: u32) {
        let mut state = self.lock();
        let state = &mut *state;
        for (id, knote) in &mut state.knotes {
            if knote.node() == Some(node) && knote.post(hint) {
                activate(&mut state.active, *id, knote);
            }
        }
        state.settle();
    }

    /// Counts a signal on every EVFILT_SIGNAL knote of `signo`.
    pub(crate) fn post_signal(&self, signo: u64) {
        let mut state = self.lock();
        let state = &mut *state;
        for (id, knote) in &mut state.knotes {
            if knote.registered.ident != signo {
                continue;
            }
            if let Source::Signal(_, count) = &mut knote.source {
                *count += 1;
                activate(&mut state.active, *id, knote);
            }
        }
        state.settle();
    }

    /// Takes up to `events` ready knotes, the oldest activation first and each at most once.
    pub(crate) fn scan(&self, limit: usize, mut push: impl FnMut(Event)) -> Result<usize, Errno> {
        let mut state = self.lock();
        if state.closed {
            return Err(Errno::BADF);
        }
        state.collect(&self.epoll);
        let mut again = Vec::new();
        let mut count = 0;
        while count < limit {
            let Some(id) = state.active.pop_front() else {
                break;
            };
            let Some(knote) = state.knotes.get_mut(&id) else {
                continue;
            };
            knote.queued = false;
            let Some((event, after)) = knote.deliver() else {
                continue;
            };
            push(event);
            count += 1;
            match after {
                After::Idle => {}
                After::Again => again.push(id),
                After::Disabled => state.disable(id),
                After::Dropped => state.remove(id),
            }
        }
        for id in again {
            let state = &mut *state;
            if let Some(knote) = state.knotes.get_mut(&id) {
                activate(&mut state.active, id, knote);
            }
        }
        state.settle();
        Ok(count)
    }

    /// Returns the number of knotes that would be fetched.
    pub(crate) fn queued(&self) -> i64 {
        let mut state = self.lock();
        state.collect(&self.epoll);
        state.settle();
        i64::try_from(state.active.len()).unwrap_or(i64::MAX)
    }

    /// Sleeps until something is queued, the timeout is over, or a signal comes.
    pub(crate) fn sleep(&self, timeout: Option<&rustix::event::Timespec>) -> Result<bool, Errno> {
        use rustix::event::{PollFd, PollFlags, poll};
        self.lock().sleepers += 1;
        self.asleep.notify_all();
        let mut fds = [PollFd::from_borrowed_fd(self.epoll.as_fd(), PollFlags::IN)];
        let result = poll(&mut fds, timeout);
        self.lock().sleepers -= 1;
        result.map(|ready| ready != 0)
    }

    /// Waits until `count` threads sleep in calls on this queue.
    pub(crate) fn wait_until_asleep(&self, count: usize) {
        const PATIENCE: Duration = Duration::from_secs(30);
        let state = self.lock();
        let result = self
            .asleep
            .wait_timeout_while(state, PATIENCE, |state| state.sleepers < count);
        let (state, waited) = result.unwrap_or_else(PoisonError::into_inner);
        assert!(
            !waited.timed_out(),
            "{} of {count} threads sleep",
            state.sleepers
        );
    }

    /// Closes the queue, whose last descriptor is gone: a call that waits gets EBADF.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.knotes.clear();
        state.ids.clear();
        state.raise();
    }

    /// Deletes the knotes of the number `fd`, which is about to be closed (`xnu: knote_fdclose`).
    pub(crate) fn descriptor_closed(&self, fd: RawFd) {
        let mut state = self.lock();
        let gone: Vec<u64> = state
            .knotes
            .iter()
            .filter(|(_, knote)| knote.ident_fd() == Some(fd))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let state = &mut *state;
            match state.knotes.get_mut(&id) {
                Some(knote) if knote.reports_vanishing => {
                    knote.life = Life::Vanished;
                    activate(&mut state.active, id, knote);
                }
                _ => state.remove(id),
            }
        }
        state.settle();
    }
}

/// Puts an active, enabled knote at the end of the queue unless it is in it.
fn activate(active: &mut VecDeque<u64>, id: u64, knote: &mut Knote) {
    if !knote.disabled && !knote.queued {
        knote.queued = true;
        active.push_back(id);
    }
}

impl State {
    fn register(&mut self, queue: &Queue, change: &mut Event) -> Result<(), Errno> {
        let vanish = abi::EV_ADD | abi::EV_DISPATCH2;
        if change.flags & abi::EV_VANISHED != 0 && change.flags & vanish != vanish {
            return Err(Errno::INVAL);
        }
        if change.flags & abi::EV_DELETE != 0 {
            change.flags &= !abi::EV_ADD;
        }
        if change.flags & abi::EV_DISABLE != 0 {
            change.flags &= !abi::EV_ENABLE;
        }
        let Some(&id) = self.ids.get(&change.key()) else {
            if change.flags & abi::EV_ADD == 0 {
                return Err(Errno::NOENT);
            }
            return self.attach(queue, change);
        };
        let Some(knote) = self.knotes.get_mut(&id) else {
            return Err(Errno::NOENT);
        };
        if change.flags & abi::EV_DELETE != 0 {
            let enables = change.flags & abi::EV_ENABLE != 0;
            if !enables && knote.has(abi::EV_DISPATCH2) && knote.disabled {
                knote.life = Life::Deferred;
                return Err(Errno::INPROGRESS);
            }
            self.remove(id);
            return Ok(());
        }
        let active = match knote.life {
            Life::Alive => knote.touch(change),
            Life::Deferred | Life::Vanished => change.flags & abi::EV_ENABLE != 0,
        };
        if change.flags & abi::EV_DISABLE != 0 {
            self.disable(id);
        } else if change.flags & abi::EV_ENABLE != 0 {
            self.enable(id);
        }
        if active && let Some(knote) = self.knotes.get_mut(&id) {
            activate(&mut self.active, id, knote);
        }
        Ok(())
    }

    fn attach(&mut self, queue: &Queue, change: &mut Event) -> Result<(), Errno> {
        let source = new_source(queue, change)?;
        let reports_vanishing = change.flags & abi::EV_VANISHED != 0;
        change.flags &= !abi::EV_VANISHED;
        let mut registered = *change;
        if matches!(source, Source::User { .. }) {
            registered.fflags &= abi::NOTE_FFLAGSMASK;
        }
        let id = self.next_id;
        self.next_id += 1;
        let knote = Knote {
            registered,
            pending: 0,
            disabled: true,
            queued: false,
            reports_vanishing,
            life: Life::Alive,
            source,
        };
        self.knotes.insert(id, knote);
        self.ids.insert(change.key(), id);
        if change.flags & abi::EV_DISABLE == 0 {
            self.enable(id);
        }
        Ok(())
    }

    fn enable(&mut self, id: u64) {
        let Some(knote) = self.knotes.get_mut(&id) else {
            return;
        };
        if !std::mem::replace(&mut knote.disabled, false) {
            return;
        }
        let edge = match knote.has(abi::EV_CLEAR) {
            true => EventFlags::ET,
            false => EventFlags::empty(),
        };
        let ident = knote.ident_fd().and_then(|fd| sys::borrowed(fd).ok());
        // A descriptor that has gone meanwhile simply never becomes ready.
        let _watched = match (&knote.source, ident) {
            (Source::Read(_), Some(fd)) => {
                let wanted = EventFlags::IN | EventFlags::RDHUP | edge;
                sys::watch(&self.readers, fd, id, wanted)
            }
            (Source::Write, Some(fd)) => sys::watch(&self.writers, fd, id, EventFlags::OUT | edge),
            (Source::Timer(fd) | Source::Signal(fd, _) | Source::Directory(_, fd), _) => {
                sys::watch(&self.readers, fd, id, EventFlags::IN)
            }
            (Source::Vnode(_) | Source::User { .. } | Source::Read(_) | Source::Write, _) => Ok(()),
        };
        if knote.is_active() {
            activate(&mut self.active, id, knote);
        }
    }

    fn disable(&mut self, id: u64) {
        let Some(knote) = self.knotes.get_mut(&id) else {
            return;
        };
        knote.disabled = true;
        knote.queued = false;
        self.active.retain(|queued| *queued != id);
        self.unwatch(id);
    }

    fn unwatch(&self, id: u64) {
        let Some(knote) = self.knotes.get(&id) else {
            return;
        };
        let ident = knote.ident_fd().and_then(|fd| sys::borrowed(fd).ok());
        // The descriptor is not watched, or closed already: there is nothing to take out.
        let _gone = match (&knote.source, ident) {
            (Source::Read(_), Some(fd)) => rustix::event::epoll::delete(&self.readers, fd),
            (Source::Write, Some(fd)) => rustix::event::epoll::delete(&self.writers, fd),
            (Source::Timer(fd) | Source::Signal(fd, _) | Source::Directory(_, fd), _) => {
                rustix::event::epoll::delete(&self.readers, fd)
            }
            (Source::Vnode(_) | Source::User { .. } | Source::Read(_) | Source::Write, _) => Ok(()),
        };
    }

    fn remove(&mut self, id: u64) {
        self.unwatch(id);
        if let Some(knote) = self.knotes.remove(&id) {
            self.ids.remove(&knote.registered.key());
            if knote.queued {
                self.active.retain(|queued| *queued != id);
            }
        }
    }

    /// Moves descriptors that epoll finds ready into the queue.
    fn collect(&mut self, epoll: &OwnedFd) {
        for part in sys::ready_tokens(epoll) {
            let inner = match part {
                READERS => &self.readers,
                WRITERS => &self.writers,
                _ => continue,
            };
            for id in sys::ready_tokens(inner) {
                if let Some(knote) = self.knotes.get_mut(&id)
                    && knote.on_ready()
                {
                    activate(&mut self.active, id, knote);
                }
            }
        }
    }

    /// Makes the descriptor readable exactly while something is queued.
    fn settle(&mut self) {
        if self.active.is_empty() && self.bell_is_up && !self.closed {
            sys::take_count(&self.bell);
            self.bell_is_up = false;
        } else if !self.active.is_empty() {
            self.raise();
        }
    }

    fn raise(&mut self) {
        if !std::mem::replace(&mut self.bell_is_up, true) {
            // An eventfd always takes the first of many increments.
            let _written = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

/// Does what the f_attach of each filter does, with its errors.
fn new_source(queue: &Queue, change: &Event) -> Result<Source, Errno> {
    let fd = || RawFd::try_from(change.ident).map_err(|_| Errno::BADF);
    match change.filter {
        abi::EVFILT_VNODE => match sys::identify(fd()?)? {
            (_, FileType::Fifo | FileType::Socket | FileType::Unknown) => Err(Errno::INVAL),
            (node, FileType::Directory) => {
                sys::new_directory_watch(fd()?).map(|watch| Source::Directory(node, watch))
            }
            (node, _) => Ok(Source::Vnode(node)),
        },
        abi::EVFILT_READ => {
            let (_, kind) = sys::identify(fd()?)?;
            let inner = queue_table::find(fd()?);
            if inner
                .as_deref()
                .is_some_and(|inner| std::ptr::eq(inner, queue))
            {
                return Err(Errno::INVAL);
            }
            if matches!(kind, FileType::RegularFile | FileType::Directory) {
                return Err(Errno::INVAL);
            }
            Ok(Source::Read(inner.as_ref().map(Arc::downgrade)))
        }
        abi::EVFILT_WRITE => match sys::identify(fd()?)? {
            (_, FileType::RegularFile | FileType::Directory) => Err(Errno::INVAL),
            _ => Ok(Source::Write),
        },
        abi::EVFILT_TIMER => {
            let unit = match change.fflags & 0x7 {
                abi::NOTE_SECONDS => 1_000_000_000,
                abi::NOTE_USECONDS => 1_000,
                abi::NOTE_NSECONDS => 1,
                _ => 1_000_000,
            };
            let period = u64::try_from(change.data).map_err(|_| Errno::INVAL)?;
            let once = change.flags & abi::EV_ONESHOT != 0;
            sys::new_timer(period.saturating_mul(unit), once).map(Source::Timer)
        }
        abi::EVFILT_SIGNAL => {
            let signo = i32::try_from(change.ident).map_err(|_| Errno::INVAL)?;
            Ok(Source::Signal(sys::new_signal(signo)?, 0))
        }
        abi::EVFILT_USER => Ok(Source::User {
            triggered: change.fflags & abi::NOTE_TRIGGER != 0,
        }),
        _ => Err(Errno::INVAL),
    }
}
