//! Finds the watches on a node of a branch.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentfs_core::id::{BranchId, NodeId};
use parking_lot::{RwLock, RwLockWriteGuard};
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{WatchFilter, WatchHandle};
use crate::api::Api;
use crate::queue::{Queue, Slot};

/// The part of a watch on a node that decides whether it hears a change.
#[derive(Clone, Debug)]
pub(crate) struct NodeWatch {
    pub(crate) handle: WatchHandle,
    pub(crate) api: Api,
    /// `NOTE_*` or `IN_*` bits.
    pub(crate) interest: u32,
    pub(crate) filter: WatchFilter,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    branch: BranchId,
    node: NodeId,
}

/// The watches of one node. Most nodes have one.
#[derive(Debug)]
enum List {
    One(NodeWatch),
    Many(Vec<NodeWatch>),
}

impl List {
    fn watches(&self) -> &[NodeWatch] {
        match self {
            Self::One(watch) => std::slice::from_ref(watch),
            Self::Many(watches) => watches,
        }
    }

    fn find(&mut self, queue: &Arc<Queue>, slot: Slot) -> Option<&mut NodeWatch> {
        let watches = match self {
            Self::One(watch) => std::slice::from_mut(watch),
            Self::Many(watches) => watches,
        };
        watches
            .iter_mut()
            .find(|watch| watch.handle.is(queue, slot))
    }

    fn and(self, watch: NodeWatch) -> Self {
        Self::Many(match self {
            Self::One(first) => vec![first, watch],
            Self::Many(mut watches) => {
                watches.push(watch);
                watches
            }
        })
    }
}

type Table = FxHashMap<Key, List>;
type Shard = RwLock<Table>;

/// All watches on nodes. A lookup costs one hash and one shared lock, however many watches there
/// are.
#[derive(Debug)]
pub(crate) struct NodeIndex {
    shards: Box<[Shard]>,
    len: AtomicUsize,
}

/// How many shards there are: a power of two, so that a few bits of the hash choose one.
const SHARDS: usize = 64;

impl NodeIndex {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            len: AtomicUsize::new(0),
        }
    }

    /// Returns how many watches there are.
    ///
    /// # Staleness
    /// A watch that was registered before the calling thread committed is counted.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        // Acquire: pairs with the AcqRel of `insert` and `remove`, so a watch that is counted is
        // found.
        self.len.load(Ordering::Acquire)
    }

    #[inline]
    fn shard(&self, key: Key) -> &Shard {
        // The table of the shard takes the lowest and the highest bits of the hash. These are the
        // highest ones of the product, on which all of the key has an effect.
        let bits = FxBuildHasher.hash_one(key) >> 20;
        let at = (bits % SHARDS as u64) as usize;
        &self.shards[at]
    }

    /// Calls `found` for every watch on a node. `found` runs under the lock of a shard, so it must
    /// not call into the index and must not wait.
    #[inline]
    pub(crate) fn find(&self, branch: BranchId, node: NodeId, found: impl FnMut(&NodeWatch)) {
        let key = Key { branch, node };
        let shard = self.shard(key).read();
        if let Some(list) = shard.get(&key) {
            list.watches().iter().for_each(found);
        }
    }

    pub(crate) fn insert(&self, branch: BranchId, node: NodeId, watch: NodeWatch) {
        let key = Key { branch, node };
        let mut shard = self.write(key);
        let list = match shard.remove(&key) {
            None => List::One(watch),
            Some(list) => list.and(watch),
        };
        shard.insert(key, list);
        self.len.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn remove(&self, branch: BranchId, node: NodeId, queue: &Arc<Queue>, slot: Slot) {
        let key = Key { branch, node };
        let mut shard = self.write(key);
        let removed = match shard.get_mut(&key) {
            Some(List::One(watch)) if watch.handle.is(queue, slot) => shard.remove(&key),
            Some(List::Many(watches)) => {
                let at = watches
                    .iter()
                    .position(|watch| watch.handle.is(queue, slot));
                let removed = at.map(|at| List::One(watches.remove(at)));
                if watches.is_empty() {
                    shard.remove(&key);
                }
                removed
            }
            Some(List::One(_)) | None => None,
        };
        if removed.is_some() {
            self.len.fetch_sub(1, Ordering::AcqRel);
        }
        drop(shard);
        // This may be the last reference to a queue, whose memory is then freed. That is not done
        // under the lock.
        drop(removed);
    }

    /// Changes the interest of a watch.
    pub(crate) fn set_interest(
        &self,
        branch: BranchId,
        node: NodeId,
        (queue, slot): (&Arc<Queue>, Slot),
        interest: u32,
    ) {
        let key = Key { branch, node };
        let mut shard = self.write(key);
        if let Some(watch) = shard.get_mut(&key).and_then(|list| list.find(queue, slot)) {
            watch.interest = interest;
        }
    }

    fn write(&self, key: Key) -> RwLockWriteGuard<'_, Table> {
        self.shard(key).write()
    }
}
