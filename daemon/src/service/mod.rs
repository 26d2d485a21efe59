//! The watch service: sessions, their queues and watches, and the sink that hears every change.

mod error;
mod refill;
mod register;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentfs_core::FsCore;
use agentfs_core::event::{Envelope, EventKind, EventSink, Origin};
use agentfs_core::id::{BranchId, MountId, SessionId};
use agentfs_ring::Capacity;
use agentfs_ring::doorbell::{self, Ringer, Waiter};

pub use self::error::WatchError;
pub use self::register::{NodeInterest, TreeInterest};
use crate::channel::{Bounds, Channel};
use crate::counters::Counts;
use crate::doorbell::Doorbell;
use crate::heal::{Base, closing};
use crate::queue::{Open, Queue, QueueId};
use crate::route::{Hit, Router};
use crate::spill::Pool;
use crate::synth::fsevents::{MUST_SCAN_SUB_DIRS, USER_DROPPED};
use crate::synth::inotify::IN_Q_OVERFLOW;
use crate::synth::vnode::NOTE_WRITE;
use crate::tell::News;
use crate::watch::Api;

/// What sessions may have, and how much may wait for slow readers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Queues of one session.
    pub queues: usize,
    /// Watches of one queue.
    pub watches: usize,
    /// Records of one queue that may wait in memory when its ring is full. What comes then is told
    /// as a difference.
    pub spill_records: usize,
    /// Bytes that may wait in memory for all queues.
    pub spill_bytes: usize,
    /// A directory on tmpfs, for the hidden files that ring inotify queues.
    pub doorbell_directory: PathBuf,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queues: 1024,
            watches: 4 << 20,
            spill_records: 65_536,
            spill_bytes: 256 << 20,
            doorbell_directory: PathBuf::from("/dev/shm"),
        }
    }
}

/// What a new queue gives to the program, and what stays here.
#[derive(Debug)]
pub struct OpenedQueue {
    /// The queue.
    pub queue: Arc<Queue>,
    /// For the program: the ring.
    pub ring: OwnedFd,
    /// For the program: written when a full ring has room again.
    pub refill_ringer: OwnedFd,
    /// For the program: what is rung when a record waits and the program sleeps.
    pub doorbell: OwnedFd,
    /// Stays here: when it is readable, clear it and call [`WatchService::refill`].
    pub refill: Waiter,
}

#[derive(Debug)]
struct Session {
    branch: BranchId,
    queues: BTreeMap<QueueId, Arc<Queue>>,
    next_queue: u32,
}

/// The sessions' watches, and the sink that tells them. Give it to
/// `FsCore::subscribe_events`.
#[derive(Debug)]
pub struct WatchService {
    core: FsCore,
    router: Router,
    limits: Limits,
    pool: Arc<Pool>,
    sessions: Mutex<HashMap<SessionId, Session>>,
    /// Sessions whose consumer lies about its ring, to be ended by whoever holds their socket.
    condemned: Mutex<Vec<SessionId>>,
    attention: (Ringer, Waiter),
    /// What queues that are closed have counted.
    retired: Mutex<Counts>,
    /// Called with a change before anybody is told of it.
    before_telling: BeforeTelling,
    by_kernel: ByKernel,
}

type MountsOf = dyn Fn(&Envelope) -> Vec<MountId> + Send + Sync;

/// See [`WatchService::told_by_kernel`].
struct ByKernel {
    mounts: Box<MountsOf>,
    wants_activity: Box<dyn Fn(BranchId) -> bool + Send + Sync>,
}

impl fmt::Debug for ByKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByKernel")
    }
}

/// See [`WatchService::telling_after`].
struct BeforeTelling(Box<dyn Fn(&Envelope) + Send + Sync>);

impl fmt::Debug for BeforeTelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeTelling")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WatchService {
    /// A service without sessions, for the branches of a filesystem.
    ///
    /// # Errors
    ///
    /// When the system gives no descriptors.
    pub fn new(core: FsCore, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            core,
            router: Router::new(),
            pool: Arc::new(Pool::new(limits.spill_bytes)),
            limits,
            sessions: Mutex::default(),
            condemned: Mutex::default(),
            attention: doorbell::pipe()?,
            retired: Mutex::default(),
            before_telling: BeforeTelling(Box::new(|_| {})),
            by_kernel: ByKernel {
                mounts: Box::new(|envelope| match envelope.origin {
                    Origin::Mount(mount) => vec![mount],
                    Origin::Local | Origin::Session(_) | Origin::Lower | Origin::Restore => {
                        Vec::new()
                    }
                }),
                wants_activity: Box::new(|_| false),
            },
        })
    }

    /// Asks this on which mounts the kernel tells a change, so that nobody there is told twice, and
    /// whether activity in a branch has to be heard of for that. Otherwise the kernel tells on the mount through
    /// which the change was made.
    #[must_use]
    pub fn told_by_kernel(
        self,
        mounts: impl Fn(&Envelope) -> Vec<MountId> + Send + Sync + 'static,
        wants_activity: impl Fn(BranchId) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            by_kernel: ByKernel {
                mounts: Box::new(mounts),
                wants_activity: Box::new(wants_activity),
            },
            ..self
        }
    }

    /// Calls this with every change that somebody is about to be told of, in the committing thread,
    /// and tells when it returns: time for the change to be seen wherever it was made.
    #[must_use]
    pub fn telling_after(self, call: impl Fn(&Envelope) + Send + Sync + 'static) -> Self {
        Self {
            before_telling: BeforeTelling(Box::new(call)),
            ..self
        }
    }

    /// Opens a session whose watches look at a branch.
    pub fn open_session(&self, id: SessionId, branch: BranchId) {
        let session = Session {
            branch,
            queues: BTreeMap::new(),
            next_queue: 1,
        };
        lock(&self.sessions).insert(id, session);
    }

    /// Ends a session with everything it had.
    pub fn close_session(&self, id: SessionId) {
        let session = lock(&self.sessions).remove(&id);
        for queue in session.iter().flat_map(|session| session.queues.values()) {
            self.close(queue);
        }
    }

    /// Makes a queue and its channel.
    ///
    /// # Errors
    ///
    /// [`WatchError`]: no such session, too many queues, or no memory or descriptors.
    pub fn open_queue(
        &self,
        session: SessionId,
        api: Api,
        capacity: Capacity,
    ) -> Result<OpenedQueue, WatchError> {
        let (producer, ring) = agentfs_ring::create(capacity).map_err(WatchError::Ring)?;
        let (bell, doorbell) = self.make_doorbell(api).map_err(WatchError::Doorbell)?;
        let (refill_ringer, refill) = make_refill().map_err(WatchError::Doorbell)?;
        let bounds = Bounds {
            records: self.limits.spill_records,
            pool: Arc::clone(&self.pool),
        };
        let channel = Channel::new(producer, bell, bounds, overflow_mask(api));
        let mut sessions = lock(&self.sessions);
        let open = sessions
            .get_mut(&session)
            .ok_or(WatchError::NoSession(session))?;
        if open.queues.len() >= self.limits.queues {
            return Err(WatchError::Limit("queues of a session", self.limits.queues));
        }
        let id = QueueId(open.next_queue);
        open.next_queue += 1;
        let queue = Arc::new(Queue::new((session, id), api, open.branch, channel));
        open.queues.insert(id, Arc::clone(&queue));
        Ok(OpenedQueue {
            queue,
            ring,
            refill_ringer: refill_ringer.into(),
            doorbell,
            refill,
        })
    }

    fn make_doorbell(&self, api: Api) -> io::Result<crate::doorbell::Ends> {
        match api {
            #[cfg(target_os = "linux")]
            Api::Inotify => Doorbell::hidden_file(&self.limits.doorbell_directory),
            _ => Doorbell::pipe(),
        }
    }

    /// Gives a queue a new doorbell; the old one is rung no more. Rings it, in case the program
    /// missed something meanwhile.
    ///
    /// # Errors
    ///
    /// [`WatchError`]: no such queue, or no descriptor.
    pub fn renew_doorbell(
        &self,
        session: SessionId,
        queue: QueueId,
    ) -> Result<OwnedFd, WatchError> {
        let queue = self.queue(session, queue)?;
        let (bell, theirs) = self
            .make_doorbell(queue.api)
            .map_err(WatchError::Doorbell)?;
        let mut guard = queue.lock();
        let open = guard.as_mut().ok_or(WatchError::NoQueue(queue.id))?;
        bell.ring();
        open.channel.doorbell = bell;
        Ok(theirs)
    }

    /// Ends a queue with its watches.
    ///
    /// # Errors
    ///
    /// [`WatchError`]: no such queue.
    pub fn close_queue(&self, session: SessionId, queue: QueueId) -> Result<(), WatchError> {
        let removed = lock(&self.sessions)
            .get_mut(&session)
            .ok_or(WatchError::NoSession(session))?
            .queues
            .remove(&queue)
            .ok_or(WatchError::NoQueue(queue))?;
        self.close(&removed);
        Ok(())
    }

    fn close(&self, queue: &Arc<Queue>) {
        if let Some((watches, counts)) = queue.close() {
            for (slot, state) in watches.iter() {
                self.router
                    .remove(queue, slot, &state.target, state.interest);
            }
            *lock(&self.retired) += counts;
        }
    }

    /// A queue of a session.
    ///
    /// # Errors
    ///
    /// [`WatchError`]: no such queue.
    pub fn queue(&self, session: SessionId, queue: QueueId) -> Result<Arc<Queue>, WatchError> {
        lock(&self.sessions)
            .get(&session)
            .ok_or(WatchError::NoSession(session))?
            .queues
            .get(&queue)
            .map(Arc::clone)
            .ok_or(WatchError::NoQueue(queue))
    }

    /// The queues of a session.
    ///
    /// # Errors
    ///
    /// [`WatchError`]: no such session.
    pub fn queues(&self, session: SessionId) -> Result<Vec<Arc<Queue>>, WatchError> {
        let sessions = lock(&self.sessions);
        let session = sessions
            .get(&session)
            .ok_or(WatchError::NoSession(session))?;
        Ok(session.queues.values().map(Arc::clone).collect())
    }

    /// Readable when [`condemned`](Self::condemned) has something to say.
    #[must_use]
    pub fn attention(&self) -> BorrowedFd<'_> {
        self.attention.1.as_fd()
    }

    /// The sessions that must be ended because a consumer of theirs broke its ring, each once.
    pub fn condemned(&self) -> Vec<SessionId> {
        // It cannot fail but for a descriptor that is not ours.
        drop(self.attention.1.clear());
        std::mem::take(&mut *lock(&self.condemned))
    }

    fn judge(&self, queue: &Queue, open: &Open) {
        if open.channel.broken().is_some() {
            let mut condemned = lock(&self.condemned);
            if !condemned.contains(&queue.session) {
                condemned.push(queue.session);
                drop(self.attention.0.ring());
            }
        }
    }

    /// What happened so far, in all queues that are or were.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = *lock(&self.retired);
        for session in lock(&self.sessions).values() {
            for queue in session.queues.values() {
                if let Some(open) = queue.lock().as_ref() {
                    counts += open.channel.counters;
                }
            }
        }
        counts
    }

    /// How many watches there are, on nodes and on trees.
    #[must_use]
    pub fn watches(&self) -> (usize, usize) {
        (self.router.nodes.len(), self.router.trees.len())
    }

    /// Bytes of records that wait in memory.
    #[must_use]
    pub fn spilled_bytes(&self) -> usize {
        self.pool.bytes()
    }

    fn deliver(&self, queue: &Queue, hits: &[Hit], news: News<'_>) {
        let freeze = || self.freeze(queue.branch);
        let mut guard = queue.lock();
        let Some(open) = guard.as_mut() else { return };
        open.tell_all(hits, news, &freeze, |slot, state| {
            if let Some(hit) = hits.first() {
                self.router
                    .remove(&hit.home.queue, slot, &state.target, state.interest);
            }
        });
        open.channel.flush();
        self.judge(queue, open);
    }

    /// Tells every queue that has watches that it may have missed something: for when it is not
    /// known what changed.
    pub fn overflow_all(&self) {
        let queues: Vec<Arc<Queue>> = lock(&self.sessions)
            .values()
            .flat_map(|session| session.queues.values().map(Arc::clone))
            .collect();
        for queue in queues {
            if let Some(open) = queue.lock().as_mut().filter(|open| open.watches.len() > 0) {
                open.channel.overflow();
            }
            self.refill(&queue);
        }
    }

    fn freeze(&self, branch: BranchId) -> Option<Base> {
        let branch = self.core.branch(branch).ok()?;
        Some(Base::of(&branch))
    }
}

impl EventSink for WatchService {
    /// Nothing: [`on_envelope`](Self::on_envelope) says all.
    fn on_event(&self, _event: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        self.tell(envelope);
        // Who brings content by no handle closes none.
        if matches!(envelope.origin, Origin::Restore | Origin::Lower)
            && let Some(change) = closing(&envelope.change)
        {
            self.tell(&Envelope {
                change,
                ..envelope.clone()
            });
        }
    }

    fn wants_activity(&self) -> bool {
        self.router.wants_activity(None)
    }

    fn wants_activity_in(&self, branch: BranchId) -> bool {
        self.router.wants_activity(Some(branch)) || (self.by_kernel.wants_activity)(branch)
    }
}

impl WatchService {
    /// Tells every queue of a change.
    fn tell(&self, envelope: &Envelope) {
        let mut news = None;
        let by_kernel = (self.by_kernel.mounts)(envelope);
        self.router.route(envelope, &by_kernel, |queue, hits| {
            let news = *news.get_or_insert_with(|| {
                self.before_telling.0(envelope);
                self.router.news(envelope, 0)
            });
            self.deliver(queue, hits, news);
        });
    }
}

fn overflow_mask(api: Api) -> u32 {
    match api {
        Api::Inotify => IN_Q_OVERFLOW,
        Api::KqueueXnu | Api::KqueueFreeBsd => NOTE_WRITE,
        Api::FsEvents => MUST_SCAN_SUB_DIRS | USER_DROPPED,
        Api::Native => 0,
    }
}

#[cfg(target_os = "linux")]
fn make_refill() -> io::Result<(Ringer, Waiter)> {
    doorbell::eventfd()
}

#[cfg(not(target_os = "linux"))]
fn make_refill() -> io::Result<(Ringer, Waiter)> {
    doorbell::pipe()
}
