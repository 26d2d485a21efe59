//! Request channels: inotify watches that programs register by writing into shared memory.
//!
//! A registration wakes no thread. The daemon looks for registrations before it routes an event:
//! this sink is subscribed in front of the watch service. `docs/shim-protocol.md` has the reasons.
//!
//! Only the channels of the event's own branch are looked at, so what a session of another branch
//! writes into its memory costs nothing there. What a session's requests cost counts against its
//! frames ([`Registrations::charge`]).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use agentfs_core::FsCore;
use agentfs_core::event::{Envelope, EventKind, EventSink, Origin};
use agentfs_core::id::{BranchId, NodeId, Seq, SessionId};
use agentfs_engine::service::{NodeInterest, WatchError, WatchService};
use agentfs_engine::synth::inotify::{IN_ALL_EVENTS, IN_EXCL_UNLINK, IN_ONESHOT};
use agentfs_engine::{Api, QueueId, WatchId};
use agentfs_proto::registration::{NOT_DELIVERED, Registration};
use agentfs_ring::MapError;
use agentfs_ring::requests::{self, RequestReader, SLOTS};
use parking_lot::{Mutex, RwLock};

use crate::base::wake::{Wake, WakeQueue};
use crate::mounts::table::MountTable;

/// Requests of one session that wait to be carried out. Those beyond stay in the channel until the
/// program finds it full and waits for a reply.
const MAX_PENDING: usize = SLOTS as usize;

/// Requests that count as one frame of their session.
const PER_FRAME: u64 = 8;

/// The highest wd that the kernel gives.
const LAST_WD: u32 = i32::MAX.cast_unsigned();

/// The bits that a mask may have. The program has worked out `IN_MASK_ADD`.
const KNOWN_BITS: u32 = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT;

/// All request channels.
pub(crate) struct Registrations {
    /// Replaced as a whole. The lock is held only to copy the reference, never while requests are
    /// carried out: a thread with a lock of the filesystem reads it, too, and a writer that waits
    /// would keep both from each other.
    channels: RwLock<Arc<Channels>>,
    /// How many channels there are, so that an event costs one load when there is none.
    count: AtomicUsize,
    core: FsCore,
    watches: Arc<WatchService>,
    mounts: MountTable,
    wakes: Arc<WakeQueue>,
    /// The instance of the daemon before, if its programs are expected.
    former: Option<u64>,
    /// How often a channel was looked into, and how many requests were read.
    looks: AtomicU64,
    requests: AtomicU64,
}

/// The channels by session and by branch.
#[derive(Clone, Default)]
struct Channels {
    of_session: HashMap<SessionId, Arc<Channel>>,
    of_branch: HashMap<BranchId, Vec<Arc<Channel>>>,
}

/// The channel of one session.
struct Channel {
    session: SessionId,
    branch: BranchId,
    /// Held while requests are carried out, so that this is done in their order. Never taken under a
    /// lock of the filesystem.
    turn: Mutex<()>,
    /// Taken under locks of the filesystem, so nothing is done under it that could need those.
    inbox: Mutex<Inbox>,
    /// Requests read that were not charged yet.
    uncharged: AtomicU64,
    /// How many queues of the session have something that waits elsewhere than in their rings.
    waiting: Arc<AtomicUsize>,
}

struct Inbox {
    reader: RequestReader,
    /// Read, and to be carried out when no lock of the filesystem is held.
    pending: VecDeque<Registration>,
    /// Nothing more is read: it makes no sense, or the session is gone.
    is_closed: bool,
}

impl fmt::Debug for Registrations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrations")
            .field("channels", &self.count)
            .finish_non_exhaustive()
    }
}

impl Registrations {
    pub(crate) fn new(
        core: &FsCore,
        watches: &Arc<WatchService>,
        mounts: &MountTable,
        wakes: &Arc<WakeQueue>,
        former: Option<u64>,
    ) -> Self {
        Self {
            channels: RwLock::default(),
            count: AtomicUsize::new(0),
            core: core.clone(),
            watches: Arc::clone(watches),
            mounts: mounts.clone(),
            wakes: Arc::clone(wakes),
            former,
            looks: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        }
    }

    /// Returns how often a channel was looked into, and how many requests were read.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let count = |it: &AtomicU64| it.load(Ordering::Relaxed);
        (count(&self.looks), count(&self.requests))
    }

    /// Returns how many frames the requests amount to that were read for a session since the last
    /// call.
    pub(crate) fn charge(&self, session: SessionId) -> u64 {
        let Some(channel) = self.of_session(session) else {
            return 0;
        };
        let read = channel.uncharged.load(Ordering::Relaxed);
        // What does not amount to a frame is left for the next time.
        let frames = read / PER_FRAME;
        channel
            .uncharged
            .fetch_sub(frames * PER_FRAME, Ordering::Relaxed);
        frames
    }

    /// Creates a channel for a session. One that it had is read to its end first.
    pub(crate) fn open(&self, session: SessionId, branch: BranchId) -> Result<OwnedFd, MapError> {
        self.close(session);
        let (reader, fd) = requests::create()?;
        // Watches that are made from now on need no earlier change.
        let last = self.core.branch(branch).map_or(Seq(0), |it| it.last_seq());
        reader.set_delivered(last.0);
        let inbox = Inbox {
            reader,
            pending: VecDeque::new(),
            is_closed: false,
        };
        let channel = Arc::new(Channel {
            session,
            branch,
            turn: Mutex::default(),
            inbox: Mutex::new(inbox),
            uncharged: AtomicU64::new(0),
            waiting: self.watches.waiting_of(session).unwrap_or_default(),
        });
        self.change(|channels| {
            let of_branch = channels.of_branch.entry(branch).or_default();
            of_branch.push(Arc::clone(&channel));
            channels.of_session.insert(session, channel);
        });
        Ok(fd)
    }

    /// Carries out what a session's channel holds, and ends the channel.
    pub(crate) fn close(&self, session: SessionId) {
        if let Some(channel) = self.of_session(session) {
            // This waits for a thread that does so already.
            self.carry_out(&channel, None);
            channel.inbox.lock().is_closed = true;
        }
        self.change(|channels| {
            let Some(gone) = channels.of_session.remove(&session) else {
                return;
            };
            if let Some(of_branch) = channels.of_branch.get_mut(&gone.branch) {
                of_branch.retain(|channel| channel.session != session);
                if of_branch.is_empty() {
                    channels.of_branch.remove(&gone.branch);
                }
            }
        });
    }

    /// Carries out what a session's channel holds.
    pub(crate) fn look(&self, session: SessionId) {
        if let Some(channel) = self.of_session(session) {
            self.carry_out(&channel, None);
        }
    }

    fn of_session(&self, session: SessionId) -> Option<Arc<Channel>> {
        self.channels()?.of_session.get(&session).cloned()
    }

    /// Returns the channels, if there are any.
    fn channels(&self) -> Option<Arc<Channels>> {
        // Acquire: pairs with the Release in `change`. A count that is not seen yet is of a channel
        // whose descriptor no program has yet.
        (self.count.load(Ordering::Acquire) > 0).then(|| Arc::clone(&self.channels.read()))
    }

    fn change(&self, change: impl FnOnce(&mut Channels)) {
        let mut current = self.channels.write();
        let mut channels = Channels::clone(&current);
        change(&mut channels);
        self.count
            .store(channels.of_session.len(), Ordering::Release);
        *current = Arc::new(channels);
    }

    /// Reads a channel and carries out its requests. `ending` is the node whose end is routed next.
    fn carry_out(&self, channel: &Channel, ending: Option<NodeId>) {
        let _turn = channel.turn.lock();
        let mut inbox = channel.inbox.lock();
        self.receive(channel, &mut inbox);
        // A request stays in the inbox until it is carried out, because other threads look there
        // for what it wants to hear.
        while let Some(request) = inbox.pending.front().copied() {
            drop(inbox);
            if let Err(error) = self.register(channel, request, ending) {
                // The program keeps its kernel's watch.
                tracing::debug!(session = %channel.session, %error, "registration passed over");
            }
            inbox = channel.inbox.lock();
            inbox.pending.pop_front();
        }
    }

    /// Reads the channel, at most once round, so that a program that writes without end holds up no
    /// thread.
    fn receive(&self, channel: &Channel, inbox: &mut Inbox) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        for _ in 0..SLOTS {
            if inbox.is_closed || inbox.pending.len() >= MAX_PENDING {
                return;
            }
            match inbox.reader.next() {
                Ok(None) => return,
                Ok(Some(words)) => {
                    self.requests.fetch_add(1, Ordering::Relaxed);
                    channel.uncharged.fetch_add(1, Ordering::Relaxed);
                    inbox.pending.extend(Registration::from_words(words));
                }
                Err(error) => {
                    tracing::warn!(session = %channel.session, %error, "a damaged request channel");
                    inbox.is_closed = true;
                    self.wakes.send(Wake::DamagedChannel(channel.session));
                }
            }
        }
    }

    fn register(
        &self,
        channel: &Channel,
        request: Registration,
        ending: Option<NodeId>,
    ) -> Result<(), WatchError> {
        let session = channel.session;
        match request {
            Registration::Set {
                queue,
                wd,
                mask,
                st_dev,
                st_ino,
            } => {
                let queue = self.watches.queue(session, QueueId(queue))?;
                if queue.api != Api::Inotify {
                    return Err(WatchError::OtherApi(queue.api));
                }
                if !(1..=LAST_WD).contains(&wd) {
                    return Err(WatchError::NoWatch(WatchId(wd.into())));
                }
                let shown = self.mounts.by_device(st_dev);
                let Some((mount, _)) = shown.filter(|(_, of)| *of == channel.branch) else {
                    return Ok(());
                };
                // The watch gets everything that is routed from now on: whatever else was committed
                // before the program registered has been routed already.
                let mask = mask & KNOWN_BITS;
                let interest = NodeInterest {
                    mask,
                    mount: Some(mount),
                    after: Seq(0),
                };
                let (wd, node) = (WatchId(u64::from(wd)), NodeId(st_ino));
                let branch = self.core.branch(channel.branch);
                if ending == Some(node) || branch.is_ok_and(|branch| branch.has_node(node)) {
                    self.watches.watch_node(&queue, wd, node, interest)
                } else {
                    // This is as if the object had gone just after the watch was made.
                    self.watches.notify_gone(&queue, wd, mask)
                }
            }
            Registration::Remove { queue, wd } => {
                let queue = self.watches.queue(session, QueueId(queue))?;
                self.watches.unwatch(&queue, WatchId(u64::from(wd)))
            }
            Registration::Close { queue } => self.watches.close_queue(session, QueueId(queue)),
            Registration::Resume {
                queue,
                instance,
                after,
            } => {
                let queue = self.watches.queue(session, QueueId(queue))?;
                if queue.api != Api::Inotify {
                    return Err(WatchError::OtherApi(queue.api));
                }
                let missed = self.missed(channel.branch, instance, Seq(after));
                self.watches.hold(&queue, missed);
                // What was missed is not delivered yet.
                channel.inbox.lock().reader.set_delivered(NOT_DELIVERED);
                Ok(())
            }
        }
    }

    /// Returns what a reader of an earlier daemon has missed before this one began; `None` if that is not
    /// known.
    fn missed(&self, branch: BranchId, instance: u64, after: Seq) -> Option<Vec<Envelope>> {
        if self.former != Some(instance) {
            return None;
        }
        let changes = self
            .core
            .branch(branch)
            .ok()?
            .changes_before_opening(after)?;
        let envelope = |(seq, change)| Envelope {
            seq,
            time_ns: 0,
            branch,
            pid: 0,
            origin: Origin::Local,
            change,
        };
        Some(changes.into_iter().map(envelope).collect())
    }

    /// Notes that the changes up to this one were delivered to a session.
    pub(crate) fn note_delivered(&self, session: SessionId, seq: Seq) {
        if let Some(channel) = self.of_session(session) {
            let inbox = channel.inbox.lock();
            if inbox.reader.delivered() < seq.0 {
                inbox.reader.set_delivered(seq.0);
            }
        }
    }
}

/// Notes for each session how far the changes of its branch were delivered, so that its programs can tell
/// the next daemon. Subscribed behind the watch service.
#[derive(Debug)]
pub(crate) struct Delivered(pub(crate) Arc<Registrations>);

impl EventSink for Delivered {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        let channels = self.0.channels();
        let of_branch = channels.and_then(|it| it.of_branch.get(&envelope.branch).cloned());
        for channel in of_branch.iter().flatten() {
            let inbox = channel.inbox.lock();
            // Relaxed: this thread has just delivered to all queues, and whoever holds one takes the lock
            // of the inbox afterwards.
            if channel.waiting.load(Ordering::Relaxed) == 0 {
                inbox.reader.set_delivered(envelope.seq.0);
            }
        }
    }
}

impl EventSink for Registrations {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        // The node is gone when the change is routed, and its watches get the event of its end.
        let ending = envelope.change.may_end();
        let channels = self.channels();
        let of_branch = channels.and_then(|it| it.of_branch.get(&envelope.branch).cloned());
        for channel in of_branch.iter().flatten() {
            self.carry_out(channel, ending);
        }
    }

    /// Returns whether a watch that is still to be registered in the branch may want activity.
    /// FsCore asks this under locks that delivering to a queue may need, so nothing is carried out
    /// here, nor read. Whatever waits in a channel counts: it is carried out before the activity is
    /// routed.
    fn wants_activity_in(&self, branch: BranchId) -> bool {
        let Some(channels) = self.channels() else {
            return false;
        };
        let of_branch = channels.of_branch.get(&branch);
        of_branch.into_iter().flatten().any(|channel| {
            self.looks.fetch_add(1, Ordering::Relaxed);
            match channel.inbox.try_lock() {
                Some(inbox) => inbox.has_some(),
                // Another thread is about to carry something out.
                None => true,
            }
        })
    }
}

impl Inbox {
    /// Returns whether anything waits to be carried out.
    fn has_some(&self) -> bool {
        !self.pending.is_empty() || (!self.is_closed && self.reader.has_pending())
    }
}
