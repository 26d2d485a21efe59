//! The topological sort of the differences of two trees: an order in which they could be made one
//! after the other, each with the paths that hold at its turn.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use crate::diff::steps::{Named, Step};
use crate::model::event::{Name, ObjectKind};
use crate::model::id::NodeId;
use crate::store::dir_paths::{DirPath, DirPaths, SortKey};
use crate::store::tree::Tree;

/// A name that one of the trees does not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) dir: NodeId,
    pub(crate) name: Name,
    pub(crate) node: NodeId,
    pub(crate) kind: ObjectKind,
}

#[derive(Clone, Debug)]
enum Pending {
    Remove(Entry),
    Add(Entry),
    Move(Entry, Entry),
}

/// The old tree on its way to the new one.
struct Sorter<'a> {
    old: &'a Tree,
    new: &'a Tree,
    /// Where directories are by now, if it is not where the old tree has them.
    places: HashMap<NodeId, (NodeId, Name)>,
    /// Directories that are still to be created or moved.
    arriving: HashSet<NodeId>,
    /// Names that objects have only for a while, to be out of the way.
    aside: HashSet<(NodeId, Name)>,
    /// Names that are still to be freed.
    taken: HashSet<(NodeId, Name)>,
    /// How many names are still to be removed from a directory.
    leaving: HashMap<NodeId, usize>,
    /// The paths of directories by now.
    paths: DirPaths,
    turns: Turns,
    /// The step from which on a circle may be broken: those before are done, or were moved aside.
    next_circle: usize,
    steps: Vec<Step>,
}

/// Returns the removed and added names as steps. An object that loses a name and gets another is
/// renamed. Children are removed before their parents and added after them, and a name is freed
/// before it is taken. Where names take each other's place in a circle, one object is moved out of
/// the way first.
///
/// Each step is tried in its turn, and again only once what was in its way is gone: a chain of
/// renames of any length takes time in proportion to the chain.
pub(crate) fn topo_sort(
    old: &Tree,
    new: &Tree,
    removed: Vec<Entry>,
    added: Vec<Entry>,
) -> Vec<Step> {
    let mut waiting = pair(removed, added);
    let mut ranking = Ranking::new(old, new);
    waiting.sort_by_cached_key(|pending| ranking.rank(pending));
    let mut sorter = Sorter::new(old, new, &waiting);
    let mut waiting: Vec<Option<Pending>> = waiting.into_iter().map(Some).collect();
    loop {
        while let Some(index) = sorter.turns.next() {
            let Some(pending) = waiting[index].take() else {
                continue;
            };
            match sorter.obstacle(&pending) {
                None => sorter.step(&pending),
                Some(obstacle) => {
                    sorter.turns.wait(index, obstacle);
                    waiting[index] = Some(pending);
                }
            }
        }
        if !sorter.break_circle(&mut waiting) {
            return sorter.steps;
        }
    }
}

/// Pairs removed and added names of one object as renames.
fn pair(removed: Vec<Entry>, added: Vec<Entry>) -> Vec<Pending> {
    let mut lost: BTreeMap<NodeId, Vec<Entry>> = BTreeMap::new();
    for entry in removed {
        lost.entry(entry.node).or_default().push(entry);
    }
    let mut all = Vec::new();
    for entry in added {
        all.push(match lost.get_mut(&entry.node).and_then(Vec::pop) {
            Some(from) => Pending::Move(from, entry),
            None => Pending::Add(entry),
        });
    }
    all.extend(lost.into_values().flatten().map(Pending::Remove));
    all
}

/// The order in which steps are tried: removals from the deepest name up, then new directories,
/// renames and other new names, by their new paths. Names that lie too deep for a path are removed
/// before the others and added after them, by their depth.
type Rank = (u8, Reverse<SortKey>, SortKey);

struct Ranking<'a> {
    old: (&'a Tree, DirPaths),
    new: (&'a Tree, DirPaths),
}

impl<'a> Ranking<'a> {
    fn new(old: &'a Tree, new: &'a Tree) -> Self {
        Self {
            old: (old, DirPaths::default()),
            new: (new, DirPaths::default()),
        }
    }

    fn rank(&mut self, pending: &Pending) -> Rank {
        let nowhere = SortKey::root();
        let (class, entry) = match pending {
            Pending::Remove(entry) => {
                return (0, Reverse(place_in(&mut self.old, entry)), nowhere);
            }
            Pending::Add(entry) if entry.kind.is_dir() => (1, entry),
            Pending::Move(_, entry) => (2, entry),
            Pending::Add(entry) => (3, entry),
        };
        (class, Reverse(nowhere), place_in(&mut self.new, entry))
    }
}

fn place_in((tree, paths): &mut (&Tree, DirPaths), entry: &Entry) -> SortKey {
    let path = paths.of(tree, entry.dir).unwrap_or_else(DirPath::root);
    SortKey::new(&path, &entry.name)
}

/// What is in the way of a step.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Obstacle {
    /// Names are still to be removed from this directory.
    Filled(NodeId),
    /// This directory is still to be created or moved.
    Arriving(NodeId),
    /// This name is still to be freed.
    Taken(NodeId, Name),
}

/// Whose turn it is. Steps are numbered in the order in which they are tried. A step that had
/// something in its way gets another turn when that is gone: in this round if its number is still to
/// come, otherwise in the next one.
#[derive(Default)]
struct Turns {
    ready: BinaryHeap<Reverse<(u64, usize)>>,
    waiting: HashMap<Obstacle, Vec<usize>>,
    /// The round and the step whose turn it is.
    now: (u64, usize),
}

impl Turns {
    fn of(count: usize) -> Self {
        Self {
            ready: (0..count).map(|index| Reverse((0, index))).collect(),
            ..Self::default()
        }
    }

    fn next(&mut self) -> Option<usize> {
        let Reverse(turn) = self.ready.pop()?;
        self.now = turn;
        Some(turn.1)
    }

    fn wait(&mut self, index: usize, obstacle: Obstacle) {
        self.waiting.entry(obstacle).or_default().push(index);
    }

    fn is_gone(&mut self, obstacle: &Obstacle) {
        let (round, at) = self.now;
        let freed = self.waiting.remove(obstacle).into_iter().flatten();
        let turns = freed.map(|index| Reverse((round + u64::from(index < at), index)));
        self.ready.extend(turns);
    }
}

impl<'a> Sorter<'a> {
    fn new(old: &'a Tree, new: &'a Tree, waiting: &[Pending]) -> Self {
        let mut sorter = Self {
            old,
            new,
            places: HashMap::new(),
            arriving: HashSet::new(),
            aside: HashSet::new(),
            taken: HashSet::new(),
            leaving: HashMap::new(),
            paths: DirPaths::default(),
            turns: Turns::of(waiting.len()),
            next_circle: 0,
            steps: Vec::new(),
        };
        for pending in waiting {
            if let Pending::Remove(entry) | Pending::Move(entry, _) = pending {
                sorter.expect_to_leave(entry);
            }
            if let Pending::Add(entry) | Pending::Move(_, entry) = pending
                && entry.kind.is_dir()
            {
                sorter.arriving.insert(entry.node);
            }
        }
        sorter
    }

    fn expect_to_leave(&mut self, entry: &Entry) {
        self.taken.insert((entry.dir, entry.name.clone()));
        *self.leaving.entry(entry.dir).or_default() += 1;
    }

    /// Returns what is in the way of the step, if anything is.
    fn obstacle(&self, pending: &Pending) -> Option<Obstacle> {
        match pending {
            Pending::Remove(entry) => {
                let is_filled = entry.kind.is_dir() && self.is_leaving(entry.node);
                is_filled.then_some(Obstacle::Filled(entry.node))
            }
            Pending::Add(entry) => self.closed(entry),
            Pending::Move(from, to) => {
                let own = from.dir == to.dir && from.name == to.name;
                // Only a directory can hold the target, and only when it moves to another
                // directory.
                let may_hold = from.kind.is_dir() && from.dir != to.dir;
                let closed = if own { None } else { self.closed(to) };
                closed.or_else(|| {
                    let held = may_hold.then(|| self.way_out(to.dir, from.node));
                    held.flatten().map(Obstacle::Arriving)
                })
            }
        }
    }

    fn step(&mut self, pending: &Pending) {
        let step = match pending {
            Pending::Remove(entry) => {
                let step = Step::Removed(self.named(entry));
                self.left(entry);
                step
            }
            Pending::Add(entry) => {
                self.arrived(entry);
                Step::Added(self.named(entry))
            }
            Pending::Move(from, to) => {
                let was = self.named(from);
                self.left(from);
                self.arrived(to);
                Step::Renamed(was, self.named(to))
            }
        };
        self.steps.push(step);
    }

    fn left(&mut self, entry: &Entry) {
        self.taken.remove(&(entry.dir, entry.name.clone()));
        self.turns
            .is_gone(&Obstacle::Taken(entry.dir, entry.name.clone()));
        if let Some(count) = self.leaving.get_mut(&entry.dir) {
            *count -= 1;
            if *count == 0 {
                self.turns.is_gone(&Obstacle::Filled(entry.dir));
            }
        }
        if entry.kind.is_dir() {
            self.paths.forget(entry.node);
        }
    }

    fn arrived(&mut self, entry: &Entry) {
        if entry.kind.is_dir() {
            let is_new = self.arriving.remove(&entry.node) && self.old.inode(entry.node).is_err();
            self.turns.is_gone(&Obstacle::Arriving(entry.node));
            let place = (entry.dir, entry.name.clone());
            let before = self.places.insert(entry.node, place);
            if !is_new || before.is_some() {
                // Paths of the directory and of what is in it may be remembered.
                self.paths.forget_moved(entry.node);
            }
        }
    }

    fn is_leaving(&self, dir: NodeId) -> bool {
        self.leaving.get(&dir).is_some_and(|count| *count > 0)
    }

    /// Returns why the name cannot be taken now, if it cannot.
    fn closed(&self, entry: &Entry) -> Option<Obstacle> {
        if self.arriving.contains(&entry.dir) {
            return Some(Obstacle::Arriving(entry.dir));
        }
        let place = (entry.dir, entry.name.clone());
        let is_taken = self.taken.contains(&place);
        is_taken.then_some(Obstacle::Taken(place.0, place.1))
    }

    fn place(&self, dir: NodeId) -> Option<(NodeId, Name)> {
        if let Some(place) = self.places.get(&dir) {
            return Some(place.clone());
        }
        let inode = self.old.inode(dir).ok()?;
        let (parent, name) = inode.names.first()?;
        Some((parent, name.clone()))
    }

    /// Returns `None` if `dir` does not lie below `top` by now, and is not `top`. Otherwise it returns
    /// the lowest directory between the two that is still to be moved, or `top`.
    fn way_out(&self, dir: NodeId, top: NodeId) -> Option<NodeId> {
        let (mut at, mut arriving) = (dir, None);
        while at != top {
            if arriving.is_none() && self.arriving.contains(&at) {
                arriving = Some(at);
            }
            at = self.place(at)?.0;
        }
        Some(arriving.unwrap_or(top))
    }

    fn named(&mut self, entry: &Entry) -> Named {
        let mut paths = std::mem::take(&mut self.paths);
        let path = paths.of_placed(entry.dir, |dir| self.place(dir));
        self.paths = paths;
        Named {
            dir_path: path.unwrap_or_else(DirPath::root),
            name: entry.name.clone(),
            dir: entry.dir,
            node: entry.node,
            is_dir: entry.kind.is_dir(),
        }
    }

    /// Moves one object of a circle to a name that is free in both trees.
    fn break_circle(&mut self, waiting: &mut [Option<Pending>]) -> bool {
        let rest = waiting.iter_mut().enumerate().skip(self.next_circle);
        let mut movable = rest.filter_map(|(index, pending)| match pending {
            Some(Pending::Move(from, to)) if !self.is_aside(from) => Some((index, from, to)),
            Some(Pending::Move(..) | Pending::Remove(_) | Pending::Add(_)) | None => None,
        });
        let Some((index, from, to)) = movable.next() else {
            return false;
        };
        self.next_circle = index + 1;
        // All that is freed gets its turn in the next round.
        self.turns.now.1 = usize::MAX;
        // The name is not in the directory where the object was, which may have to become empty
        // first.
        let reachable =
            !self.arriving.contains(&to.dir) && self.way_out(to.dir, from.node).is_none();
        let dir = if reachable { to.dir } else { NodeId::ROOT };
        let aside = Entry {
            dir,
            name: self.free_name(dir, from.node),
            ..from.clone()
        };
        let is_arriving = self.arriving.contains(&from.node);
        self.step(&Pending::Move(from.clone(), aside.clone()));
        self.expect_to_leave(&aside);
        if is_arriving {
            self.arriving.insert(from.node);
        }
        self.aside.insert((aside.dir, aside.name.clone()));
        *from = aside;
        true
    }

    fn is_aside(&self, entry: &Entry) -> bool {
        self.aside.contains(&(entry.dir, entry.name.clone()))
    }

    fn free_name(&self, dir: NodeId, node: NodeId) -> Name {
        let is_used = |tree: &Tree, name: &[u8]| {
            let Ok(inode) = tree.inode(dir) else {
                return false;
            };
            !matches!(tree.lookup(dir, &inode, name), Ok(None))
        };
        let mut name: Name = Arc::from(&b""[..]);
        for attempt in 0_u64.. {
            name = format!(".{node}.{attempt}.moving").into_bytes().into();
            if !is_used(self.old, &name) && !is_used(self.new, &name) {
                break;
            }
        }
        name
    }
}
