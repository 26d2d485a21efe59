//! The watch service: sessions with their queues and watches, and the sink that hears every change.

mod deliver;
mod error;
mod missed;
mod refill;
mod register;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use agentfs_core::FsCore;
use agentfs_core::event::{Envelope, Origin};
use agentfs_core::id::{BranchId, MountId, SessionId};
use agentfs_ring::Capacity;
use agentfs_ring::doorbell::{Ringer, Waiter, pipe};
use parking_lot::Mutex;

pub use self::error::WatchError;
pub use self::refill::Difference;
pub use self::register::{NodeInterest, TreeInterest};
use crate::api::Api;
use crate::channel::{Bounds, Channel};
use crate::counters::Counts;
use crate::doorbell::{self, Doorbell};
use crate::heal::Freezer;
use crate::kept::Kept;
use crate::queue::{Open, Queue, QueueId};
use crate::route::Router;
use crate::spill::Pool;
use crate::synth::fsevents::{MUST_SCAN_SUB_DIRS, USER_DROPPED};
use crate::synth::inotify::IN_Q_OVERFLOW;
use crate::synth::vnode::NOTE_WRITE;

/// How much a session may have, and how much may wait for slow readers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueLimits {
    /// How many queues a session may have.
    pub queues: usize,
    /// How many watches a queue may have.
    pub watches: usize,
    /// How many records of one queue may wait in memory while its ring is full. Beyond, the queue
    /// gets a difference in place of events.
    pub spill_records: usize,
    /// How many bytes may wait in memory for all queues together.
    pub spill_bytes: usize,
    /// A directory on a tmpfs. It holds the hidden files by which inotify queues are rung.
    pub doorbell_directory: PathBuf,
}

impl Default for QueueLimits {
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

/// A new queue: descriptors for the program, and what stays with the caller.
#[derive(Debug)]
pub struct OpenedQueue {
    /// The queue.
    pub queue: Arc<Queue>,
    /// For the program: the ring.
    pub ring: OwnedFd,
    /// For the program, which rings it when a full ring has room again.
    pub refill_ringer: OwnedFd,
    /// For the program: rung when a record waits and the program sleeps.
    pub doorbell: OwnedFd,
    /// For the caller, which clears it when it is readable and calls [`WatchService::refill`].
    pub refill: Waiter,
}

#[derive(Debug)]
struct WatchSession {
    branch: BranchId,
    queues: BTreeMap<QueueId, Arc<Queue>>,
    next_queue: u32,
    /// How many of the queues have something that waits elsewhere than in their rings.
    waiting: Arc<AtomicUsize>,
}

/// The watches of all sessions, and the sink that delivers changes to them. It is given to
/// [`FsCore::subscribe_events`].
#[derive(Debug)]
pub struct WatchService {
    core: FsCore,
    router: Router,
    limits: QueueLimits,
    pool: Arc<Pool>,
    sessions: Mutex<HashMap<SessionId, WatchSession>>,
    /// Sessions whose consumer wrote nonsense into its ring, until whoever holds their sockets ends
    /// them.
    broken: Mutex<Vec<SessionId>>,
    attention: (Ringer, Waiter),
    /// The counts of queues that are closed.
    closed_counts: Mutex<Counts>,
    /// Called with a change before it is delivered to the first queue.
    before_delivery: BeforeDelivery,
    kernel_mounts: KernelMounts,
    kept: Kept,
}

type MountsOf = dyn Fn(&Envelope) -> Vec<MountId> + Send + Sync;

/// See [`WatchService::notified_by_kernel`].
struct KernelMounts {
    mounts: Box<MountsOf>,
    wants_activity: Box<dyn Fn(BranchId) -> bool + Send + Sync>,
}

impl fmt::Debug for KernelMounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KernelMounts")
    }
}

/// See [`WatchService::before_delivery`].
struct BeforeDelivery(Box<dyn Fn(&Envelope) + Send + Sync>);

impl fmt::Debug for BeforeDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeDelivery")
    }
}

impl WatchService {
    /// Creates a service without sessions, for the branches of a filesystem.
    ///
    /// # Errors
    ///
    /// The error of the system, when it gives no descriptors.
    pub fn new(core: FsCore, limits: QueueLimits) -> io::Result<Self> {
        Ok(Self {
            core,
            router: Router::new(),
            pool: Arc::new(Pool::new(limits.spill_bytes)),
            limits,
            sessions: Mutex::default(),
            broken: Mutex::default(),
            attention: pipe()?,
            closed_counts: Mutex::default(),
            before_delivery: BeforeDelivery(Box::new(|_| {})),
            kept: Kept::default(),
            kernel_mounts: KernelMounts {
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

    /// Sets the function that says on which mounts the kernel itself notifies of a change. Watches
    /// made there are left out, so that no program hears a change twice. `wants_activity` says
    /// whether the function has to see opening, reading and closing in a branch too.
    ///
    /// Without this call it is the mount through which the change was made. For every other mount
    /// that the function names, [`deliver_after_echo`](Self::deliver_after_echo) has to follow.
    #[must_use]
    pub fn notified_by_kernel(
        self,
        mounts: impl Fn(&Envelope) -> Vec<MountId> + Send + Sync + 'static,
        wants_activity: impl Fn(BranchId) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            kernel_mounts: KernelMounts {
                mounts: Box::new(mounts),
                wants_activity: Box::new(wants_activity),
            },
            ..self
        }
    }

    /// Sets a function that is called before a change is delivered to the first queue, in the
    /// committing thread. Delivery waits until it returns, so it can wait until the change is
    /// visible on the mount where it was made.
    #[must_use]
    pub fn before_delivery(self, call: impl Fn(&Envelope) + Send + Sync + 'static) -> Self {
        Self {
            before_delivery: BeforeDelivery(Box::new(call)),
            ..self
        }
    }

    /// Opens a session whose watches look at a branch.
    pub fn open_session(&self, id: SessionId, branch: BranchId) {
        let session = WatchSession {
            branch,
            queues: BTreeMap::new(),
            next_queue: 1,
            waiting: Arc::default(),
        };
        self.sessions.lock().insert(id, session);
    }

    /// Closes a session, its queues and its watches.
    pub fn close_session(&self, id: SessionId) {
        let session = self.sessions.lock().remove(&id);
        for queue in session.iter().flat_map(|session| session.queues.values()) {
            self.close(queue);
        }
    }

    /// Returns how many watches a session has.
    #[must_use]
    pub fn watches_of(&self, id: SessionId) -> usize {
        let queues: Vec<Arc<Queue>> = {
            let sessions = self.sessions.lock();
            let queues = sessions.get(&id).map(|session| session.queues.values());
            queues.into_iter().flatten().map(Arc::clone).collect()
        };
        let watches = |queue: &Arc<Queue>| queue.lock().as_ref().map_or(0, |it| it.watches.len());
        queues.iter().map(watches).sum()
    }

    /// Opens a queue with its ring and its doorbells.
    ///
    /// # Errors
    ///
    /// [`WatchError`] when there is no such session, when it has too many queues, or when the
    /// system gives no memory or no descriptors.
    pub fn open_queue(
        &self,
        session: SessionId,
        api: Api,
        capacity: Capacity,
    ) -> Result<OpenedQueue, WatchError> {
        let (producer, ring) = agentfs_ring::create(capacity).map_err(WatchError::Ring)?;
        let (bell, doorbell) = self.make_doorbell(api).map_err(WatchError::Doorbell)?;
        let (refill_ringer, refill) = doorbell::refill_ends().map_err(WatchError::Doorbell)?;
        let bounds = Bounds {
            records: self.limits.spill_records,
            pool: Arc::clone(&self.pool),
        };
        let mut sessions = self.sessions.lock();
        let open = sessions
            .get_mut(&session)
            .ok_or(WatchError::NoSession(session))?;
        if open.queues.len() >= self.limits.queues {
            return Err(WatchError::Limit("queues of a session", self.limits.queues));
        }
        let id = QueueId(open.next_queue);
        open.next_queue += 1;
        let freezer = Freezer {
            core: self.core.clone(),
            branch: open.branch,
        };
        let channel = Channel::new(
            producer,
            bell,
            bounds,
            freezer,
            overflow_mask(api),
            Arc::clone(&open.waiting),
        );
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

    fn make_doorbell(&self, api: Api) -> io::Result<doorbell::Ends> {
        match api {
            Api::Inotify => Doorbell::for_inotify(&self.limits.doorbell_directory),
            Api::KqueueXnu | Api::KqueueFreeBsd | Api::FsEvents | Api::Native => Doorbell::pipe(),
        }
    }

    /// Makes a new doorbell for a queue in place of the old one, and rings it, because the program may
    /// have missed a ring meanwhile. Returns the end for the program.
    ///
    /// # Errors
    ///
    /// [`WatchError`] when there is no such queue, or when the system gives no descriptor.
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

    /// Closes a queue and its watches.
    ///
    /// # Errors
    ///
    /// [`WatchError`] when there is no such session or queue.
    pub fn close_queue(&self, session: SessionId, queue: QueueId) -> Result<(), WatchError> {
        let removed = self
            .sessions
            .lock()
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
            *self.closed_counts.lock() += counts;
        }
    }

    /// Returns a queue of a session.
    ///
    /// # Errors
    ///
    /// [`WatchError`] when there is no such session or queue.
    pub fn queue(&self, session: SessionId, queue: QueueId) -> Result<Arc<Queue>, WatchError> {
        self.sessions
            .lock()
            .get(&session)
            .ok_or(WatchError::NoSession(session))?
            .queues
            .get(&queue)
            .map(Arc::clone)
            .ok_or(WatchError::NoQueue(queue))
    }

    /// Returns a descriptor that is readable while [`broken_sessions`](Self::broken_sessions) has
    /// sessions to return.
    #[must_use]
    pub fn attention(&self) -> BorrowedFd<'_> {
        self.attention.1.as_fd()
    }

    /// Returns the sessions that must be ended because a consumer of theirs broke its ring. Each is
    /// returned once.
    pub fn broken_sessions(&self) -> Vec<SessionId> {
        // This fails only for a descriptor that is not ours.
        drop(self.attention.1.clear());
        std::mem::take(&mut *self.broken.lock())
    }

    fn note_if_broken(&self, queue: &Queue, open: &Open) {
        if open.channel.broken().is_some() {
            let mut broken = self.broken.lock();
            if !broken.contains(&queue.session) {
                broken.push(queue.session);
                drop(self.attention.0.ring());
            }
        }
    }

    /// Returns the counts over all queues, closed ones included.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = *self.closed_counts.lock();
        for session in self.sessions.lock().values() {
            for queue in session.queues.values() {
                if let Some(open) = queue.lock().as_ref() {
                    counts += open.channel.counters;
                }
            }
        }
        counts
    }

    /// Returns how many watches there are on nodes and on trees.
    #[must_use]
    pub fn watches(&self) -> (usize, usize) {
        (self.router.nodes.len(), self.router.trees.len())
    }

    /// Returns how many bytes of records wait in memory.
    #[must_use]
    pub fn spilled_bytes(&self) -> usize {
        self.pool.bytes()
    }

    /// Enqueues an overflow record in every queue that has watches. The caller does so when it is
    /// not known what changed.
    pub fn overflow_all(&self) {
        let queues: Vec<Arc<Queue>> = self
            .sessions
            .lock()
            .values()
            .flat_map(|session| session.queues.values().map(Arc::clone))
            .collect();
        for queue in queues {
            if let Some(open) = queue.lock().as_mut() {
                if open.channel.backlog.held.is_some() {
                    // Its reader is told when its watches are registered.
                    open.channel.backlog.held = Some(None);
                    continue;
                }
                if open.watches.len() > 0 {
                    open.channel.overflow();
                }
            }
            self.refill(&queue);
        }
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
