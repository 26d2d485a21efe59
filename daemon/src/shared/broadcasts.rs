//! Changes on the control socket, for the sessions that subscribed to them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use agentfs_core::event::{Change, Envelope, EventKind, EventSink, Place};
use agentfs_core::id::{BranchId, SessionId};
use agentfs_engine::{BranchCounts, synth};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::frame;
use agentfs_proto::message::{FromDaemon, FsEventBroadcast, Reply};
use agentfs_proto::record::Kind;
use parking_lot::{Mutex, RwLock};

use crate::base::wake::{Wake, WakeQueue};

/// Bytes of broadcasts that wait for one session. Those beyond are left out, and one broadcast of
/// kind `Overflow` stands in their place.
const MAX_WAITING: usize = 1 << 20;

/// Broadcasts on their way from the committing threads to the event loop.
pub(crate) struct Broadcasts {
    /// The subscriptions by the branch that they are about.
    subscriptions: RwLock<BTreeMap<(BranchId, SessionId, u64), Subscription>>,
    /// How many subscriptions of each branch want activity.
    activity: BranchCounts,
    outboxes: Mutex<HashMap<SessionId, Outbox>>,
    wakes: Arc<WakeQueue>,
    /// Called with a change before it is broadcast.
    before_broadcast: Box<dyn Fn(&Envelope) + Send + Sync>,
}

#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) branch: BranchId,
    /// The tree's root, as a canonical path; empty for the root of the branch.
    pub(crate) path: Vec<u8>,
    pub(crate) activity: bool,
}

/// The frames that wait for one session.
#[derive(Default)]
struct Outbox {
    frames: Vec<Vec<u8>>,
    bytes: usize,
    has_lost: bool,
}

impl fmt::Debug for Broadcasts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcasts").finish_non_exhaustive()
    }
}

impl Broadcasts {
    pub(crate) fn new(
        wakes: &Arc<WakeQueue>,
        before_broadcast: impl Fn(&Envelope) + Send + Sync + 'static,
    ) -> Self {
        Self {
            subscriptions: RwLock::default(),
            activity: BranchCounts::default(),
            outboxes: Mutex::default(),
            wakes: Arc::clone(wakes),
            before_broadcast: Box::new(before_broadcast),
        }
    }

    pub(crate) fn subscribe(&self, session: SessionId, number: u64, subscription: Subscription) {
        let branch = subscription.branch;
        if subscription.activity {
            self.activity.add(branch);
        }
        self.subscriptions
            .write()
            .insert((branch, session, number), subscription);
    }

    /// Ends a subscription and returns whether there was one. `branch` is the session's.
    ///
    /// With the last one goes what waits for the session: a session without subscriptions takes
    /// nothing, and only the first broadcast that waits wakes the loop.
    pub(crate) fn unsubscribe(&self, branch: BranchId, session: SessionId, number: u64) -> bool {
        let mut subscriptions = self.subscriptions.write();
        let gone = subscriptions.remove(&(branch, session, number));
        let of_session = (branch, session, 0)..=(branch, session, u64::MAX);
        if subscriptions.range(of_session).next().is_none() {
            self.forget(session);
        }
        drop(subscriptions);
        if gone.as_ref().is_some_and(|it| it.activity) {
            self.activity.remove(branch);
        }
        gone.is_some()
    }

    /// Ends all subscriptions of a session, and forgets what waits for it.
    pub(crate) fn unsubscribe_all(&self, branch: BranchId, session: SessionId) {
        let mut subscriptions = self.subscriptions.write();
        let of_session = (branch, session, 0)..=(branch, session, u64::MAX);
        let gone = subscriptions.extract_if(of_session, |_, _| true);
        let with_activity = gone.filter(|(_, it)| it.activity).count();
        self.forget(session);
        drop(subscriptions);
        for _ in 0..with_activity {
            self.activity.remove(branch);
        }
    }

    /// Takes the frames that wait for a session.
    pub(crate) fn take(&self, session: SessionId) -> Vec<Vec<u8>> {
        let outbox = self.outboxes.lock().remove(&session);
        outbox.unwrap_or_default().frames
    }

    /// Forgets a session, whose subscriptions have ended.
    pub(crate) fn forget(&self, session: SessionId) {
        self.outboxes.lock().remove(&session);
    }

    /// Reports to all subscribers that they may have missed something.
    pub(crate) fn overflow_all(&self) {
        for (_, session, number) in self.subscriptions.read().keys() {
            self.push(*session, overflow(*number));
        }
    }

    fn push(&self, session: SessionId, event: FsEventBroadcast) {
        let mut outboxes = self.outboxes.lock();
        let outbox = outboxes.entry(session).or_default();
        if outbox.has_lost {
            return;
        }
        let subscription = event.subscription;
        let mut bytes = frame_of(event);
        if outbox.bytes + bytes.len() > MAX_WAITING || bytes.is_empty() {
            outbox.has_lost = true;
            bytes = frame_of(overflow(subscription));
        }
        let was_empty = outbox.frames.is_empty();
        outbox.bytes += bytes.len();
        outbox.frames.push(bytes);
        drop(outboxes);
        if was_empty {
            self.wakes.send(Wake::Broadcasts(session));
        }
    }
}

/// Encodes a broadcast; returns nothing when its paths are too long for a frame.
fn frame_of(event: FsEventBroadcast) -> Vec<u8> {
    let mut bytes = Vec::new();
    let message = FromDaemon {
        request: 0,
        descriptors: 0,
        body: Reply::from(event),
    };
    if frame::append(&message, &mut bytes).is_err() {
        bytes.clear();
    }
    bytes
}

fn overflow(subscription: u64) -> FsEventBroadcast {
    FsEventBroadcast {
        subscription,
        kind: Kind::OVERFLOW.0,
        flags: 0,
        seqno: 0,
        ts_nanos: 0,
        node: 0,
        pid: 0,
        path: Bytes::default(),
        aux: Bytes::default(),
    }
}

impl EventSink for Broadcasts {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        let branch = envelope.branch;
        let of_branch = (branch, SessionId(0), 0)..=(branch, SessionId(u64::MAX), u64::MAX);
        let is_heard = |all: &BTreeMap<_, _>| all.range(of_branch.clone()).next().is_some();
        if !is_heard(&self.subscriptions.read()) {
            return;
        }
        let (path, aux) = paths(&envelope.change);
        let is_activity = envelope.kind().is_none();
        let hears = |it: &Subscription| {
            (is_within(&path, &it.path) || (!aux.is_empty() && is_within(&aux, &it.path)))
                && (it.activity || !is_activity)
        };
        let heard = || {
            let all = self.subscriptions.read();
            all.range(of_branch.clone()).any(|(_, it)| hears(it))
        };
        if !heard() {
            return;
        }
        // This may ask the kernel, so the lock is not held.
        (self.before_broadcast)(envelope);
        for ((_, session, number), it) in self.subscriptions.read().range(of_branch.clone()) {
            if !hears(it) {
                continue;
            }
            self.push(
                *session,
                FsEventBroadcast {
                    subscription: *number,
                    kind: synth::kind(&envelope.change).0,
                    flags: synth::record_flags(&envelope.change),
                    seqno: envelope.seq.0,
                    ts_nanos: envelope.time_ns,
                    node: envelope.change.object().map_or(0, |node| node.id.0),
                    pid: u64::from(envelope.pid),
                    path: Bytes(path.clone()),
                    aux: Bytes(aux.clone()),
                },
            );
        }
    }

    fn wants_activity(&self) -> bool {
        self.activity.has_any()
    }

    fn wants_activity_in(&self, branch: BranchId) -> bool {
        self.activity.has(branch)
    }
}

/// Returns the path of a change, and the new path of a rename; for a new branch or snapshot, its
/// name.
fn paths(change: &Change) -> (Vec<u8>, Vec<u8>) {
    let text = |place: &Place| [&place.dir, b"/".as_slice(), &place.name].concat();
    if let Change::Renamed { from, to, .. } = change {
        return (text(from), text(to));
    }
    if let Change::BranchCreated { name, .. } | Change::SnapshotCreated { name, .. } = change {
        return (name.as_bytes().to_vec(), Vec::new());
    }
    (
        change.place().map_or_else(|| b"/".to_vec(), text),
        Vec::new(),
    )
}

/// Returns whether a path is the tree's root or lies below it.
fn is_within(path: &[u8], root: &[u8]) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/') || root.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agentfs_core::id::{BranchId, SessionId};
    use mio::{Poll, Token};

    use super::{Broadcasts, MAX_WAITING, Subscription, is_within, overflow};
    use crate::base::wake::{Wake, WakeQueue};

    #[test]
    fn a_subscription_after_the_last_one_ended_with_broadcasts_waiting_is_woken() {
        let poll = Poll::new().unwrap();
        let wakes = Arc::new(WakeQueue::new(poll.registry(), Token(7)).unwrap());
        let broadcasts = Broadcasts::new(&wakes, |_| {});
        let (branch, session) = (BranchId(1), SessionId(1));
        let subscription = || Subscription {
            branch,
            path: Vec::new(),
            activity: false,
        };
        broadcasts.subscribe(session, 1, subscription());
        broadcasts.overflow_all();
        assert!(broadcasts.unsubscribe(branch, session, 1));
        wakes.take(&mut Vec::new());

        broadcasts.subscribe(session, 2, subscription());
        broadcasts.overflow_all();
        let mut taken = Vec::new();
        wakes.take(&mut taken);
        assert!(matches!(taken[..], [Wake::Broadcasts(SessionId(1))]));
        assert_eq!(broadcasts.take(session).len(), 1);
    }

    #[test]
    fn a_storm_wakes_once_until_it_is_taken_and_waits_in_bounded_memory() {
        let poll = Poll::new().unwrap();
        let wakes = Arc::new(WakeQueue::new(poll.registry(), Token(0)).unwrap());
        let broadcasts = Broadcasts::new(&wakes, |_| {});
        let storm = || {
            for number in 0..100_000 {
                broadcasts.push(SessionId(1), overflow(number));
            }
            let mut sent = Vec::new();
            wakes.take(&mut sent);
            assert!(
                matches!(sent[..], [Wake::Broadcasts(SessionId(1))]),
                "{sent:?}"
            );
            let frames = broadcasts.take(SessionId(1));
            let bytes: usize = frames.iter().map(Vec::len).sum();
            assert!(bytes > MAX_WAITING - 1024 && bytes < MAX_WAITING + 1024);
        };
        storm();
        storm();
    }

    #[test]
    fn a_tree_is_its_root_and_what_is_below() {
        assert!(is_within(b"/a", b"/a"));
        assert!(is_within(b"/a/b", b"/a"));
        assert!(!is_within(b"/ab", b"/a"));
        assert!(!is_within(b"/", b"/a"));
        assert!(is_within(b"/a", b""));
    }
}
