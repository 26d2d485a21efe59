//! A queue: what one program waits on, with the state of its watches.

use std::collections::HashMap;
use std::sync::Arc;

use agentfs_core::id::{BranchId, NodeId, SessionId};
use agentfs_ring::PeerError;
use parking_lot::{Mutex, MutexGuard};

use crate::api::Api;
use crate::channel::{Channel, RecordPosition};
use crate::counters::Counts;
use crate::recent::Recent;
use crate::tree::WatchedTree;

/// The number of a queue in its session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct QueueId(pub u32);

/// The number by which records name a watch: the one of its registration, or the `wd`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct WatchId(pub u64);

/// Where a queue keeps the state of one watch. A slot that is used again has another generation, so
/// a slot that an index named a moment ago cannot lead to the wrong watch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Slot {
    index: u32,
    generation: u32,
}

/// What a watch is on.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Node(NodeId),
    /// Everything at and below some paths.
    Trees(Vec<WatchedTree>),
}

/// The state of a watch.
#[derive(Clone, Debug)]
pub(crate) struct WatchState {
    pub(crate) id: WatchId,
    pub(crate) target: Target,
    /// `NOTE_*` or `IN_*` bits.
    pub(crate) interest: u32,
    /// kqueue: the bits of the unread records, of which `first_unread` is the first.
    pub(crate) unread_bits: u32,
    pub(crate) first_unread: RecordPosition,
}

impl WatchState {
    fn report(&self) -> WatchReport {
        let target = match &self.target {
            Target::Node(node) => WatchTarget::Node(*node),
            Target::Trees(trees) => {
                WatchTarget::Trees(trees.iter().map(|tree| Arc::clone(&tree.path)).collect())
            }
        };
        WatchReport {
            id: self.id,
            interest: self.interest,
            target,
        }
    }
}

/// A queue.
#[derive(Debug)]
pub struct Queue {
    /// Its session.
    pub session: SessionId,
    /// Its number in its session.
    pub id: QueueId,
    /// The API whose notifications its records are.
    pub api: Api,
    /// The branch that its watches look at.
    pub branch: BranchId,
    /// `None` once it is closed: its memory and its descriptors are gone.
    open: Mutex<Option<Open>>,
}

/// What a queue has while it is open.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) channel: Channel,
    pub(crate) watches: Watches,
    pub(crate) recent: Recent,
}

/// A watch of a queue, for a report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchReport {
    /// The number by which records name the watch.
    pub id: WatchId,
    /// `NOTE_*` or `IN_*` bits; 0 for a watch of trees.
    pub interest: u32,
    /// What the watch is on.
    pub target: WatchTarget,
}

/// What a watch is on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchTarget {
    /// A node.
    Node(NodeId),
    /// Everything at and below these paths, which have no trailing slash: the root is empty.
    Trees(Vec<Arc<[u8]>>),
}

/// The state of a queue, for a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueReport {
    /// How many watches it has.
    pub watches: usize,
    /// Size of the ring in bytes.
    pub ring_capacity: usize,
    /// Bytes in the ring that are not read yet.
    pub ring_unread: usize,
    /// Records that wait in memory because the ring is full.
    pub spilled: usize,
    /// Whether a difference is or will be delivered in place of events.
    pub healing: bool,
    /// What was counted since it was opened.
    pub counts: Counts,
}

impl Queue {
    pub(crate) fn new(
        (session, id): (SessionId, QueueId),
        api: Api,
        branch: BranchId,
        channel: Channel,
    ) -> Self {
        Self {
            session,
            id,
            api,
            branch,
            open: Mutex::new(Some(Open {
                channel,
                watches: Watches::default(),
                recent: Recent::default(),
            })),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock()
    }

    /// Takes the channel and the watches away. The caller removes the watches from the indexes.
    pub(crate) fn close(&self) -> Option<(Watches, Counts)> {
        let open = self.lock().take()?;
        Some((open.watches, open.channel.counters))
    }

    /// Returns the state of the queue, or `None` once it is closed.
    #[must_use]
    pub fn report(&self) -> Option<QueueReport> {
        let mut guard = self.lock();
        let open = guard.as_mut()?;
        let backlog = &open.channel.backlog;
        Some(QueueReport {
            watches: open.watches.len(),
            spilled: backlog.spill.len(),
            healing: backlog.heal.is_some() || backlog.held.is_some() || backlog.replay.is_some(),
            ring_capacity: open.channel.capacity(),
            ring_unread: open.channel.unread_bytes(),
            counts: open.channel.counters,
        })
    }

    /// Returns at most `most` watches from a place on, each with the place from which to go on
    /// after it. The first place is 0.
    #[must_use]
    pub fn watches_from(&self, place: u32, most: usize) -> Vec<(u32, WatchReport)> {
        let guard = self.lock();
        let slots = guard.iter().flat_map(|open| {
            let slots = open.watches.slots.iter().zip(1..);
            slots.skip(place as usize)
        });
        slots
            .filter_map(|((_, state), behind)| Some((behind, state.as_ref()?.report())))
            .take(most)
            .collect()
    }

    /// Returns what the consumer of the queue did wrong to its ring.
    #[must_use]
    pub fn broken(&self) -> Option<PeerError> {
        self.lock().as_ref().and_then(|open| open.channel.broken())
    }
}

/// The watches of a queue.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    slots: Vec<(u32, Option<WatchState>)>,
    free: Vec<u32>,
    by_id: HashMap<WatchId, Slot>,
}

impl Watches {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn find(&self, id: WatchId) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    #[inline]
    pub(crate) fn get(&mut self, slot: Slot) -> Option<&mut WatchState> {
        let (generation, state) = self.slots.get_mut(slot.index as usize)?;
        if *generation == slot.generation {
            state.as_mut()
        } else {
            None
        }
    }

    pub(crate) fn insert(&mut self, state: WatchState) -> Slot {
        let id = state.id;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let (generation, place) = &mut self.slots[index as usize];
        *place = Some(state);
        let slot = Slot {
            index,
            generation: *generation,
        };
        self.by_id.insert(id, slot);
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<WatchState> {
        self.get(slot)?;
        let (generation, place) = &mut self.slots[slot.index as usize];
        let state = place.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(slot.index);
        if self.by_id.get(&state.id) == Some(&slot) {
            self.by_id.remove(&state.id);
        }
        Some(state)
    }

    /// Returns all watches.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &WatchState)> {
        self.slots
            .iter()
            .zip(0..)
            .filter_map(|((generation, state), index)| {
                let generation = *generation;
                Some((Slot { index, generation }, state.as_ref()?))
            })
    }
}
