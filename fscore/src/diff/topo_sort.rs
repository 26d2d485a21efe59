//! Puts the differences of two trees in an order in which they could be made one after the other,
//! each with the paths that hold at its turn.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::diff::steps::{Named, Step};
use crate::model::event::{Name, ObjectKind};
use crate::model::id::NodeId;
use crate::store::dir_paths::{DirPath, DirPaths};
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
    /// Where directories are by now, when it is not where the old tree has them.
    places: HashMap<NodeId, (NodeId, Name)>,
    /// Directories that are still to be made or moved.
    arriving: HashSet<NodeId>,
    /// Names that objects have only to be out of the way.
    aside: HashSet<(NodeId, Name)>,
    /// Names that are still to be freed.
    taken: HashSet<(NodeId, Name)>,
    /// How many names a directory still has to lose.
    leaving: HashMap<NodeId, usize>,
    /// The paths of directories by now.
    paths: DirPaths,
    steps: Vec<Step>,
}

/// What goes and what comes, as steps: an object that loses a name and gets one is renamed; children
/// go before their parents and come after them; a name is freed before it is taken. Where names take
/// each other's place in a circle, one is moved out of the way first.
pub(crate) fn topo_sort(
    old: &Tree,
    new: &Tree,
    removed: Vec<Entry>,
    added: Vec<Entry>,
) -> Vec<Step> {
    let mut waiting = pair(removed, added);
    let mut sorter = Sorter::new(old, new, &waiting);
    let mut ranking = Ranking::new(old, new);
    waiting.sort_by_cached_key(|pending| ranking.rank(pending));
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain(|pending| !sorter.try_step(pending));
        if waiting.len() == before && !sorter.break_circle(&mut waiting) {
            break;
        }
    }
    sorter.steps
}

/// Finds the renames.
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

/// What is tried first: removals from the deepest name up, then new directories, renames and other
/// new names, by their new paths. What lies too deep for a path goes before the others and comes
/// after them, by its depth.
type Rank = (u8, Reverse<Where>, Where);

/// Depth where there is no path, then the path.
type Where = (u32, Vec<u8>);

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
        let nowhere = (0, Vec::new());
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

fn place_in((tree, paths): &mut (&Tree, DirPaths), entry: &Entry) -> Where {
    let path = paths.of(tree, entry.dir).unwrap_or_else(DirPath::root);
    if path.reaches(&entry.name) {
        (0, [&*path.text, b"/", &*entry.name].concat())
    } else {
        (path.beyond + 1, Vec::new())
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

    /// Makes the step if nothing is in its way.
    fn try_step(&mut self, pending: &Pending) -> bool {
        let possible = match pending {
            Pending::Remove(entry) => !entry.kind.is_dir() || !self.is_leaving(entry.node),
            Pending::Add(entry) => self.is_open(entry),
            Pending::Move(from, to) => {
                let own = from.dir == to.dir && from.name == to.name;
                // What is no directory holds nothing, and what stays where it is not itself.
                let may_hold = from.kind.is_dir() && from.dir != to.dir;
                (own || self.is_open(to)) && !(may_hold && self.is_inside(to.dir, from.node))
            }
        };
        if possible {
            self.step(pending);
        }
        possible
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
        if let Some(count) = self.leaving.get_mut(&entry.dir) {
            *count -= 1;
        }
        if entry.kind.is_dir() {
            self.paths.forget(entry.node);
        }
    }

    fn arrived(&mut self, entry: &Entry) {
        if entry.kind.is_dir() {
            let is_new = self.arriving.remove(&entry.node) && self.old.inode(entry.node).is_err();
            let place = (entry.dir, entry.name.clone());
            if !is_new || self.places.contains_key(&entry.node) {
                // It may have had a path, and so what is in it.
                self.paths.clear();
            }
            self.places.insert(entry.node, place);
        }
    }

    fn is_leaving(&self, dir: NodeId) -> bool {
        self.leaving.get(&dir).is_some_and(|count| *count > 0)
    }

    /// Whether the name can be given to something now.
    fn is_open(&self, entry: &Entry) -> bool {
        !self.arriving.contains(&entry.dir)
            && !self.taken.contains(&(entry.dir, entry.name.clone()))
    }

    fn place(&self, dir: NodeId) -> Option<(NodeId, Name)> {
        if let Some(place) = self.places.get(&dir) {
            return Some(place.clone());
        }
        let inode = self.old.inode(dir).ok()?;
        let (parent, name) = inode.names.first()?;
        Some((parent, name.clone()))
    }

    /// Whether `dir` is `top` or lies below it by now.
    fn is_inside(&self, dir: NodeId, top: NodeId) -> bool {
        let mut at = dir;
        while at != top {
            match self.place(at) {
                Some((parent, _)) => at = parent,
                None => return false,
            }
        }
        true
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

    /// Moves one object of a circle to a name that nobody has.
    fn break_circle(&mut self, waiting: &mut [Pending]) -> bool {
        let movable = waiting.iter_mut().find_map(|pending| match pending {
            Pending::Move(from, to) if !self.is_aside(from) => Some((from, to)),
            Pending::Move(..) | Pending::Remove(_) | Pending::Add(_) => None,
        });
        let Some((from, to)) = movable else {
            return false;
        };
        // Not where it was: that directory may have to become empty first.
        let reachable = !self.arriving.contains(&to.dir) && !self.is_inside(to.dir, from.node);
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
