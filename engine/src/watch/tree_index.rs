//! Finds the watches of trees that hold a path of a branch.

use std::collections::HashMap;
use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentfs_core::id::BranchId;
use parking_lot::RwLock;
use rustc_hash::{FxHashMap, FxHasher};

use super::{WatchFilter, WatchHandle};
use crate::queue::{Queue, Slot};
use crate::tree::WatchedTree;

/// A watch of a tree.
#[derive(Clone, Debug)]
pub(crate) struct TreeWatch {
    pub(crate) handle: WatchHandle,
    pub(crate) tree: WatchedTree,
    pub(crate) filter: WatchFilter,
}

#[derive(Debug)]
struct Trees {
    /// The watches by the hash of branch and path.
    by_prefix: FxHashMap<u64, Vec<TreeWatch>>,
    /// The watches that want to hear that their top moved.
    roots: HashMap<BranchId, Vec<TreeWatch>>,
    /// How many watches there are by the number of components of their path. The last place counts
    /// all that are deeper.
    depths: [usize; DEPTHS],
}

/// How many depths have a count of their own. The last one stands for all that are deeper, so one
/// watch so deep has every deeper level of a path probed.
const DEPTHS: usize = 64;

/// All watches of trees. A lookup costs a hash of the path and one probe for each depth at which
/// any tree starts, however many watches there are.
#[derive(Debug)]
pub(crate) struct TreeIndex {
    trees: RwLock<Trees>,
    len: AtomicUsize,
}

/// Returns the hash of a prefix that is one component longer.
#[inline]
fn with_component(hash: u64, component: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_u64(hash);
    hasher.write(component);
    hasher.finish()
}

fn start(branch: BranchId) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_u64(branch.0);
    hasher.finish()
}

/// Returns the components of a path that has no trailing slash.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').skip(1)
}

/// Returns a hash of a path, by which paths of one queue are distinguished.
pub(crate) fn path_hash(parts: [&[u8]; 2]) -> u64 {
    parts
        .iter()
        .fold(0, |hash, part| with_component(hash, part))
}

impl TreeIndex {
    pub(crate) fn new() -> Self {
        let trees = Trees {
            by_prefix: FxHashMap::default(),
            roots: HashMap::new(),
            depths: [0; DEPTHS],
        };
        Self {
            trees: RwLock::new(trees),
            len: AtomicUsize::new(0),
        }
    }

    /// Returns how many watches there are. See [`NodeIndex::len`](super::NodeIndex::len).
    #[inline]
    pub(crate) fn len(&self) -> usize {
        // Acquire: pairs with the AcqRel of `insert` and `remove`.
        self.len.load(Ordering::Acquire)
    }

    pub(crate) fn insert(&self, watch: TreeWatch) {
        let (hash, depth) = prefix_of(&watch.tree);
        let mut trees = self.trees.write();
        trees.depths[depth] += 1;
        if watch.tree.asks_for_root() {
            trees
                .roots
                .entry(watch.tree.branch)
                .or_default()
                .push(watch.clone());
        }
        trees.by_prefix.entry(hash).or_default().push(watch);
        self.len.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn remove(&self, tree: &WatchedTree, queue: &Arc<Queue>, slot: Slot) {
        let (hash, depth) = prefix_of(tree);
        let mut trees = self.trees.write();
        if tree.asks_for_root()
            && let Some(roots) = trees.roots.get_mut(&tree.branch)
        {
            roots.retain(|other| other.tree.path != tree.path || !other.handle.is(queue, slot));
            if roots.is_empty() {
                trees.roots.remove(&tree.branch);
            }
        }
        let Some(list) = trees.by_prefix.get_mut(&hash) else {
            return;
        };
        let before = list.len();
        list.retain(|other| !other.handle.is(queue, slot));
        let removed = before - list.len();
        if list.is_empty() {
            trees.by_prefix.remove(&hash);
        }
        trees.depths[depth] -= removed;
        self.len.fetch_sub(removed, Ordering::AcqRel);
    }

    /// Calls `found` for every watch of a tree that holds the entry `name` of the directory `dir`.
    /// `found` runs under the lock of the index, so it must not call into the index and must not
    /// wait.
    pub(crate) fn find(
        &self,
        branch: BranchId,
        dir: &[u8],
        name: &[u8],
        mut found: impl FnMut(&TreeWatch),
    ) {
        let trees = self.trees.read();
        let mut hash = start(branch);
        let mut end = 0;
        trees.probe(0, hash, (branch, dir, &[]), &mut found);
        let mut depth = 0;
        for component in components(dir) {
            hash = with_component(hash, component);
            end += 1 + component.len();
            depth += 1;
            trees.probe(depth, hash, (branch, &dir[..end], &[]), &mut found);
        }
        if !name.is_empty() {
            hash = with_component(hash, name);
            trees.probe(depth + 1, hash, (branch, dir, name), &mut found);
        }
    }

    /// Calls `found` for every watch of a tree at or below the path `dir`/`name` that wants to hear
    /// that its top moved.
    pub(crate) fn find_below(
        &self,
        branch: BranchId,
        dir: &[u8],
        name: &[u8],
        mut found: impl FnMut(&TreeWatch),
    ) {
        let trees = self.trees.read();
        for watch in trees.roots.get(&branch).into_iter().flatten() {
            let below = watch
                .tree
                .path
                .strip_prefix(dir)
                .and_then(|rest| rest.strip_prefix(b"/"))
                .and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
            if below {
                found(watch);
            }
        }
    }
}

fn prefix_of(tree: &WatchedTree) -> (u64, usize) {
    let mut depth = 0;
    let hash = components(&tree.path).fold(start(tree.branch), |hash, component| {
        depth += 1;
        with_component(hash, component)
    });
    (hash, depth.min(DEPTHS - 1))
}

impl Trees {
    /// Looks up the trees that start at one prefix: `dir`, or `dir`/`name` if there is a name.
    #[inline]
    fn probe(
        &self,
        depth: usize,
        hash: u64,
        (branch, dir, name): (BranchId, &[u8], &[u8]),
        found: &mut impl FnMut(&TreeWatch),
    ) {
        if self.depths[depth.min(DEPTHS - 1)] == 0 {
            return;
        }
        let dir = if depth == 0 { &[] } else { dir };
        for watch in self.by_prefix.get(&hash).into_iter().flatten() {
            let same_path = match watch.tree.path.strip_prefix(dir) {
                Some([]) => name.is_empty(),
                Some([b'/', rest @ ..]) => !name.is_empty() && rest == name,
                Some(_) | None => false,
            };
            if watch.tree.branch == branch && same_path {
                found(watch);
            }
        }
    }
}
