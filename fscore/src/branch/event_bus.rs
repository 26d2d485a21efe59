//! The event bus: how a change gets from its commit to the sinks.
//!
//! Under the branch's lock a change gets its number and goes into the branch's outbox. After
//! unlocking, the thread that finds the outbox idle delivers everything in it, and also what other
//! threads put there meanwhile; those return at once. So each sink receives the changes of a branch
//! in commit order, and no lock of the filesystem is held while it runs. A sink that changes the
//! branch itself is not called again inside that call: its change waits in the outbox until the
//! sink returns.
//!
//! A thread that all branches need, the daemon's event loop say, delivers only some changes of
//! others and then hands over to a thread made for that: otherwise busy committers could keep it for
//! as long as they go on.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::model::event::{Change, Envelope, EventSink, Origin};
use crate::model::id::{BranchId, Seq};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, RwLock, thread_local};

/// A subscription, for [`FsCore::unsubscribe_events`](crate::FsCore::unsubscribe_events).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SubscriptionId(u64);

/// The error of subscribing to a filesystem that was set up with `track_events` off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventsDisabled;

impl std::fmt::Display for EventsDisabled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("events are disabled; set track_events in the FsConfig")
    }
}

impl std::error::Error for EventsDisabled {}

struct Subscription {
    id: SubscriptionId,
    sink: Arc<dyn EventSink>,
    /// How many calls into the sink are under way, and [`CLOSED`] once no new one may begin. Both
    /// are in one word, whose changes all threads see in one order. Its accesses are SeqCst: the
    /// thread that waits for the last call must see what that call did, which needs AcqRel, and
    /// SeqCst costs no more here.
    calls: AtomicUsize,
}

const CLOSED: usize = 1 << (usize::BITS - 1);

thread_local! {
    /// How many calls into sinks this thread is inside of.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

type Sinks = Arc<Vec<Arc<Subscription>>>;

/// The sinks of a filesystem.
pub(crate) struct EventBus {
    enabled: bool,
    /// Whether there is any sink. Every operation asks this first.
    listening: AtomicBool,
    sinks: RwLock<Sinks>,
    last: Mutex<u64>,
    /// Notified, under the lock of `last`, when the last call into a closed subscription ends.
    quiet: Condvar,
}

impl std::fmt::Debug for EventBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventBus")
            .field("enabled", &self.enabled)
            .field("sinks", &self.sinks().len())
            .finish_non_exhaustive()
    }
}

impl EventBus {
    pub(crate) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            listening: AtomicBool::new(false),
            sinks: RwLock::default(),
            last: Mutex::new(0),
            quiet: Condvar::new(),
        }
    }

    /// Returns whether any sink would receive a change.
    pub(crate) fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    pub(crate) fn wants_activity(&self, branch: BranchId) -> bool {
        let wants = |one: &Arc<Subscription>| one.sink.wants_activity_in(branch);
        self.is_listening() && self.sinks().iter().any(wants)
    }

    pub(crate) fn subscribe(
        &self,
        sink: Arc<dyn EventSink>,
    ) -> Result<SubscriptionId, EventsDisabled> {
        if !self.enabled {
            return Err(EventsDisabled);
        }
        let mut last = self.last.lock();
        *last += 1;
        let id = SubscriptionId(*last);
        drop(last);
        let calls = AtomicUsize::new(0);
        self.change(|sinks| sinks.push(Arc::new(Subscription { id, sink, calls })));
        Ok(id)
    }

    pub(crate) fn unsubscribe(&self, id: SubscriptionId) -> Result<bool, EventsDisabled> {
        if !self.enabled {
            return Err(EventsDisabled);
        }
        let Some(one) = self.sinks().iter().find(|one| one.id == id).cloned() else {
            return Ok(false);
        };
        let found = self.close(&one);
        if INSIDE.with(Cell::get) == 0 {
            let mut guard = self.last.lock();
            while one.calls.load(Ordering::SeqCst) != CLOSED {
                self.quiet.wait(&mut guard);
            }
        }
        Ok(found)
    }

    /// Lets no new call into the sink begin; returns whether the subscription was still open.
    fn close(&self, one: &Subscription) -> bool {
        let was_open = one.calls.fetch_or(CLOSED, Ordering::SeqCst) & CLOSED == 0;
        self.change(|sinks| sinks.retain(|other| other.id != one.id));
        was_open
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Subscription>>)) {
        let mut guard = self.sinks.write();
        let old = guard.clone();
        let mut sinks = old.to_vec();
        change(&mut sinks);
        self.listening.store(!sinks.is_empty(), Ordering::Relaxed);
        *guard = Arc::new(sinks);
        // Removed sinks are dropped without the lock, because the drop of a sink may call back.
        drop(guard);
        drop(old);
    }

    fn sinks(&self) -> Sinks {
        self.sinks.read().clone()
    }

    /// Calls every sink. A sink that panics is removed.
    fn deliver(&self, sinks: &Sinks, call: impl Fn(&dyn EventSink)) {
        for one in sinks.iter() {
            if one.calls.fetch_add(1, Ordering::SeqCst) & CLOSED == 0 {
                INSIDE.with(|inside| inside.set(inside.get() + 1));
                let outcome = catch_unwind(AssertUnwindSafe(|| call(&*one.sink)));
                INSIDE.with(|inside| inside.set(inside.get() - 1));
                if outcome.is_err() {
                    tracing::error!(
                        subscription = one.id.0,
                        "an event sink panicked and is removed"
                    );
                    self.close(one);
                }
            }
            if one.calls.fetch_sub(1, Ordering::SeqCst) == CLOSED + 1 {
                let _guard = self.last.lock();
                self.quiet.notify_all();
            }
        }
    }
}

/// When, by whom and how a change was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventContext {
    pub(crate) time_ns: u64,
    pub(crate) pid: u32,
    pub(crate) origin: Origin,
}

/// How many numbers each opening of a store has: more than there are events in a branch meanwhile.
const EACH_OPENING: u64 = 1 << 40;
/// How many changes have to wait until committers are slowed down.
const CROWD: usize = 1 << 14;

/// What [`Outbox::deliver`] leaves to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Delivery {
    Over,
    /// Another thread has to [take over](Outbox::take_over).
    HandOver,
    /// Another thread delivers, and very many changes wait for it.
    Crowded,
}

/// The changes of one branch that are committed and not yet delivered.
#[derive(Debug)]
pub(crate) struct Outbox {
    branch: BranchId,
    state: Mutex<OutboxState>,
}

#[derive(Debug, Default)]
struct OutboxState {
    seq: u64,
    /// The number of the last change that was made in the branch itself.
    own: u64,
    waiting: VecDeque<Envelope>,
    /// The changes of an operation that may be taken back, with the numbers before it.
    staged: Option<(u64, u64, VecDeque<Envelope>)>,
    /// An empty queue, kept so that its memory is used again.
    spare: VecDeque<Envelope>,
    delivering: bool,
}

impl Outbox {
    pub(crate) fn new(branch: BranchId) -> Self {
        Self {
            branch,
            state: Mutex::default(),
        }
    }

    /// Numbers the changes of a branch that is read from a store, where `seq` is the last number.
    /// Events that changed nothing in the branch had numbers too and are in no log, so each opening
    /// of the store has numbers of its own.
    pub(crate) fn go_on_after(&self, seq: Seq, openings: u64) {
        let mut state = self.state.lock();
        state.seq = seq.0.max(openings.saturating_mul(EACH_OPENING));
        state.own = seq.0;
    }

    /// Numbers a change and puts it into the outbox. Called under the branch's lock.
    pub(crate) fn push(&self, context: EventContext, change: Change) {
        let mut state = self.state.lock();
        state.seq += 1;
        let seq = Seq(state.seq);
        if context.origin != Origin::Lower && !change.is_activity() {
            state.own = state.seq;
        }
        let envelope = Envelope {
            seq,
            time_ns: context.time_ns,
            branch: self.branch,
            pid: context.pid,
            origin: context.origin,
            change,
        };
        match &mut state.staged {
            Some((.., staged)) => staged.push_back(envelope),
            None => state.waiting.push_back(envelope),
        }
    }

    /// Keeps what is pushed from now on from being delivered, until the operation that pushes it is
    /// [kept](Self::keep) or [taken back](Self::take_back). Called under the branch's lock.
    pub(crate) fn begin(&self) {
        let mut state = self.state.lock();
        state.staged = Some((state.seq, state.own, VecDeque::new()));
    }

    /// Lets what was pushed since [`begin`](Self::begin) be delivered.
    pub(crate) fn keep(&self) {
        let mut state = self.state.lock();
        if let Some((.., mut staged)) = state.staged.take() {
            state.waiting.append(&mut staged);
        }
    }

    /// Forgets what was pushed since [`begin`](Self::begin).
    pub(crate) fn take_back(&self) {
        let mut state = self.state.lock();
        if let Some((seq, own, _)) = state.staged.take() {
            (state.seq, state.own) = (seq, own);
        }
    }

    /// Returns the number of the last change.
    pub(crate) fn last_seq(&self) -> Seq {
        Seq(self.state.lock().seq)
    }

    /// Returns the number of the last change that neither came from the lower directory nor was
    /// activity.
    pub(crate) fn last_own_seq(&self) -> Seq {
        Seq(self.state.lock().own)
    }

    /// Delivers what is in the outbox, unless another thread is delivering. Called without a lock.
    ///
    /// Delivers at most `more` changes that are committed meanwhile.
    pub(crate) fn deliver(&self, bus: &EventBus, more: u64) -> Delivery {
        let mut state = self.state.lock();
        if state.delivering && state.waiting.len() > CROWD {
            return Delivery::Crowded;
        }
        if state.delivering || state.waiting.is_empty() {
            return Delivery::Over;
        }
        state.delivering = true;
        let until = state.seq.saturating_add(more);
        if self.deliver_until(bus, state, until) {
            Delivery::Over
        } else {
            Delivery::HandOver
        }
    }

    /// Goes on for a thread whose [`deliver`](Self::deliver) was to be handed over, until nothing
    /// waits.
    pub(crate) fn take_over(&self, bus: &EventBus) {
        let _is_over = self.deliver_until(bus, self.state.lock(), u64::MAX);
    }

    /// Delivers up to the change with that number; returns whether nothing waits then. Otherwise the
    /// outbox stays that of a thread that delivers.
    fn deliver_until<'a>(
        &'a self,
        bus: &EventBus,
        mut state: MutexGuard<'a, OutboxState>,
        until: u64,
    ) -> bool {
        loop {
            let spare = std::mem::take(&mut state.spare);
            let mut batch = std::mem::replace(&mut state.waiting, spare);
            let is_beyond = |it: &Envelope| it.seq.0 > until;
            if batch.back().is_some_and(is_beyond) {
                let rest = batch.split_off(batch.partition_point(|it| !is_beyond(it)));
                state.waiting = rest;
            }
            drop(state);
            let sinks = bus.sinks();
            for (index, envelope) in batch.iter().enumerate() {
                let is_last = index + 1 == batch.len();
                // The end goes with the last change, because entering a sink costs two locked
                // instructions.
                bus.deliver(&sinks, |sink| {
                    sink.on_envelope(envelope);
                    if is_last {
                        sink.on_batch_end();
                    }
                });
            }
            batch.clear();
            state = self.state.lock();
            state.spare = batch;
            match state.waiting.front() {
                None => {
                    state.delivering = false;
                    return true;
                }
                Some(next) if next.seq.0 > until => return false,
                Some(_) => {}
            }
        }
    }
}
