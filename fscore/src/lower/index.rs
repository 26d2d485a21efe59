//! Which node each object of the host is, and where it was seen last.

use std::collections::HashMap;
use std::sync::Arc;

use super::path::{join, split};
use crate::model::attr::Nanos;
use crate::model::event::{Name, ObjectKind};
use crate::model::id::NodeId;
use crate::model::names::Names;

/// Device and inode number.
pub(super) type HostId = (u64, u64);

#[derive(Debug)]
pub(super) struct Index {
    nodes: HashMap<NodeId, IndexedObject>,
    by_object: HashMap<HostId, NodeId>,
    by_name: HashMap<(NodeId, Name), NodeId>,
    /// The nodes that had the names which are gone.
    gone: HashMap<(NodeId, Name), NodeId>,
}

/// How many objects that had one name, one after the other, are remembered.
const PREDECESSORS: usize = 32;

/// How an object lost a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Loss {
    /// The name was removed.
    Removed,
    /// The object moved to another name.
    Moved,
    /// Another object moved to this name.
    Replaced,
}

/// Where an object of the host was seen last.
#[derive(Clone, Debug)]
pub(super) struct IndexedObject {
    pub(super) object: HostId,
    pub(super) kind: ObjectKind,
    /// Relative to the lower root, without leading slash.
    pub(super) path: Arc<[u8]>,
    pub(super) names: Names,
    /// The node that had its name before: a program that saves a file usually puts a new one in its
    /// place.
    pub(super) before: Option<NodeId>,
    /// What its ACL takes from the permission bits. This holds while the time of the object's last
    /// change is the one here.
    pub(super) acl: Option<(Nanos, u16)>,
}

impl Index {
    /// Creates an index of the lower root and nothing else.
    pub(super) fn new(root: HostId) -> Self {
        let known = IndexedObject {
            object: root,
            kind: ObjectKind::Directory,
            path: Arc::from([]),
            names: Names::None,
            before: None,
            acl: None,
        };
        Self {
            nodes: HashMap::from([(NodeId::ROOT, known)]),
            by_object: HashMap::from([(root, NodeId::ROOT)]),
            by_name: HashMap::new(),
            gone: HashMap::new(),
        }
    }

    /// Puts an object in that a branch has changed, where it was seen before the restart. Its names
    /// follow with [`recovered`](Self::recovered).
    pub(super) fn recover(&mut self, node: NodeId, path: Arc<[u8]>, what: (HostId, ObjectKind)) {
        let (object, kind) = what;
        self.by_object.insert(object, node);
        let known = IndexedObject {
            object,
            kind,
            path,
            names: Names::None,
            before: None,
            acl: None,
        };
        self.nodes.insert(node, known);
    }

    /// Names the objects that were [put in](Self::recover) by the directories that were.
    pub(super) fn recovered(&mut self) {
        let dirs: HashMap<Arc<[u8]>, NodeId> = self
            .nodes
            .iter()
            .filter(|(_, known)| known.kind.is_dir())
            .map(|(node, known)| (known.path.clone(), *node))
            .collect();
        let mut named = Vec::new();
        for (node, known) in &mut self.nodes {
            let (dir, name) = split(&known.path);
            if let Some(dir) = dirs.get(dir).filter(|_| !name.is_empty()) {
                let name = Name::from(name);
                known.names.add(*dir, name.clone());
                named.push(((*dir, name), *node));
            }
        }
        self.by_name.extend(named);
    }

    pub(super) fn known(&self, node: NodeId) -> Option<&IndexedObject> {
        self.nodes.get(&node)
    }

    pub(super) fn note_acl(&mut self, node: NodeId, acl: (Nanos, u16)) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.acl = Some(acl);
        }
    }

    /// Returns whether the host has this object, as far as is known: until it was found to be gone.
    pub(super) fn has(&self, node: NodeId) -> bool {
        let known = self.nodes.get(&node);
        known.is_some_and(|known| self.by_object.get(&known.object) == Some(&node))
    }

    /// Returns the node of an object of the host, and where it was seen last.
    pub(super) fn at(&self, object: HostId) -> Option<(NodeId, Arc<[u8]>)> {
        let node = self.by_object.get(&object)?;
        Some((*node, self.nodes.get(node)?.path.clone()))
    }

    /// Forgets which node an object was: the host has given its number to another one.
    pub(super) fn forget_object(&mut self, object: HostId) {
        self.by_object.remove(&object);
    }

    /// Returns the node that was last seen by this name.
    pub(super) fn named(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        self.by_name.get(&(dir, Name::from(name))).copied()
    }

    /// Returns the node of an object that was seen at this path, which is `name` in `dir`, and
    /// records where it was seen.
    pub(super) fn seen(
        &mut self,
        (dir, name): (NodeId, &Name),
        path: Arc<[u8]>,
        (object, kind): (HostId, ObjectKind),
        new_node: impl FnOnce() -> NodeId,
    ) -> NodeId {
        // If an object of another kind has the same number, it is another object.
        let same = self.by_object.get(&object).copied();
        let same = same.filter(|node| self.nodes.get(node).is_some_and(|it| it.kind == kind));
        let node = same
            .or_else(|| self.number(object))
            .unwrap_or_else(new_node);
        self.by_object.insert(object, node);
        let place = self.nodes.entry(node).or_insert_with(|| IndexedObject {
            object,
            kind,
            path: path.clone(),
            names: Names::None,
            before: None,
            acl: None,
        });
        if place.path != path {
            // It is another hard link, or the host moved the object. A directory has one name.
            let old = std::mem::replace(&mut place.path, path.clone());
            if kind.is_dir() {
                place.names = Names::None;
                self.move_below(&old, &path);
            }
        }
        if let Some(place) = self.nodes.get_mut(&node) {
            place.names.add(dir, name.clone());
        }
        self.name(dir, name, node);
        node
    }

    /// Records that the object has this name from now on, and which one had it before.
    fn name(&mut self, dir: NodeId, name: &Name, node: NodeId) {
        let key = (dir, name.clone());
        let old = self.by_name.insert(key.clone(), node);
        if old == Some(node) {
            return;
        }
        let old = old.or_else(|| self.gone.remove(&key));
        if let Some(known) = self.nodes.get_mut(&node)
            && let Some(old) = old.filter(|old| *old != node)
        {
            known.before = Some(old);
        }
    }

    /// Makes a node of its own for the object with this name. The object was taken for `old`, but
    /// the host has given the number of that object to another one, or has changed the object under
    /// another name.
    pub(super) fn renumber(&mut self, (dir, name): (NodeId, &Name), old: NodeId, new: NodeId) {
        let Some(known) = self.nodes.get_mut(&old) else {
            return;
        };
        known.names.remove(dir, name);
        let mut names = Names::None;
        names.add(dir, name.clone());
        let known = IndexedObject {
            names,
            before: None,
            acl: None,
            ..known.clone()
        };
        self.by_object.insert(known.object, new);
        self.nodes.insert(new, known);
        self.by_name.insert((dir, name.clone()), new);
    }

    /// Returns the nodes that had the name of an object before it, the latest first.
    pub(super) fn predecessors(&self, node: NodeId) -> Vec<NodeId> {
        let before = |node: &NodeId| self.nodes.get(node)?.before;
        std::iter::successors(before(&node), before)
            .take(PREDECESSORS)
            .collect()
    }

    /// Takes the name from the object that lost it on the host, and returns that object. If it was
    /// the last name and the object did not only move, the object is forgotten too: another object
    /// that gets its inode number is another node.
    ///
    /// `now` is what the host has by this name now. If that is what was seen last, the name has gone
    /// to a later object already, and the one before that object has lost it.
    pub(super) fn lose_name(
        &mut self,
        (dir, name): (NodeId, &[u8]),
        now: Option<HostId>,
        loss: Loss,
    ) -> Option<(NodeId, ObjectKind)> {
        let last = self.named(dir, name)?;
        let known = self.nodes.get(&last)?;
        let kind = known.kind;
        if now != Some(known.object) {
            self.forget_name(dir, name, loss == Loss::Moved);
            return Some((last, kind));
        }
        let had_it = |node: &NodeId| {
            let known = self.nodes.get(node);
            self.has(*node) && known.is_some_and(|known| known.names.contains(dir, name))
        };
        if let Some(earlier) = known.before.filter(had_it) {
            let kind = self.nodes.get(&earlier)?.kind;
            self.remove_name(earlier, (dir, name), loss == Loss::Moved);
            return Some((earlier, kind));
        }
        if loss != Loss::Removed {
            // Nobody has seen the object that lost the name.
            return None;
        }
        // The new object may have got the number of the old one.
        self.forget_name(dir, name, false);
        Some((last, kind))
    }

    /// Forgets a name that the host no longer has. If it was the last name and the object was not
    /// only `moved`, the object is forgotten too: another object that gets its inode number is
    /// another node.
    pub(super) fn forget_name(&mut self, dir: NodeId, name: &[u8], moved: bool) {
        let key = (dir, Name::from(name));
        if let Some(node) = self.by_name.remove(&key) {
            self.gone.insert(key, node);
            self.remove_name(node, (dir, name), moved);
        }
    }

    fn remove_name(&mut self, node: NodeId, (dir, name): (NodeId, &[u8]), moved: bool) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.names.remove(dir, name);
            let is_last = known.names.first().is_none();
            if is_last && !moved && self.by_object.get(&known.object) == Some(&node) {
                self.by_object.remove(&known.object);
            }
        }
    }

    /// Records the new name of an object that the host has moved, unless a later object has that
    /// name already. An object that was seen at another path since keeps that path.
    pub(super) fn gain_name(
        &mut self,
        node: NodeId,
        from: &[u8],
        (dir, name, to): (NodeId, &[u8], &[u8]),
    ) {
        if self.named(dir, name).is_some_and(|other| other != node) {
            return;
        }
        let Some(known) = self.nodes.get_mut(&node) else {
            return;
        };
        if &*known.path == from {
            let is_dir = known.kind.is_dir();
            known.path = Arc::from(to);
            if is_dir {
                known.names = Names::None;
                self.move_below(from, to);
            }
        } else if known.kind.is_dir() {
            self.by_name.insert((dir, Name::from(name)), node);
            return;
        }
        let name = Name::from(name);
        if let Some(known) = self.nodes.get_mut(&node) {
            known.names.add(dir, name.clone());
        }
        self.name(dir, &name, node);
    }

    /// Records that the object at this path, which is `name` in `dir`, was put there for `node`.
    pub(super) fn adopt(
        &mut self,
        node: NodeId,
        (dir, name): (NodeId, &Name),
        path: Arc<[u8]>,
        (object, kind): (HostId, ObjectKind),
    ) {
        self.by_object.insert(object, node);
        let mut names = Names::None;
        let mut before = None;
        if let Some(old) = self.nodes.remove(&node) {
            before = old.before;
            // If the old object still exists under another name, it is no longer this node.
            if old.object != object && self.by_object.get(&old.object) == Some(&node) {
                self.by_object.remove(&old.object);
            }
            if old.kind.is_dir() && old.path != path {
                self.move_below(&old.path, &path);
            } else {
                names = old.names;
            }
        }
        names.add(dir, name.clone());
        let known = IndexedObject {
            object,
            kind,
            path,
            names,
            before,
            acl: None,
        };
        self.nodes.insert(node, known);
        self.name(dir, name, node);
    }

    /// Returns the node with the object's own inode number, for an object that is seen for the
    /// first time. Returns `None` if another object had that number before, or if the object is on
    /// another device, where the same numbers are used again.
    fn number(&self, (device, inode): HostId) -> Option<NodeId> {
        let node = NodeId::of_host(inode)?;
        let root = self.nodes.get(&NodeId::ROOT)?;
        (root.object.0 == device && !self.nodes.contains_key(&node)).then_some(node)
    }

    /// Updates the paths of everything that was seen below a directory which the host has moved.
    fn move_below(&mut self, old: &[u8], new: &[u8]) {
        for below in self.nodes.values_mut() {
            if let Some(rest) = below.path.strip_prefix(old)
                && let [b'/', rest @ ..] = rest
            {
                below.path = join(new, rest);
            }
        }
    }
}
