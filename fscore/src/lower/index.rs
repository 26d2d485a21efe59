//! Which node each object of the host is, and where it was seen last.

use std::collections::HashMap;
use std::sync::Arc;

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
    /// Who had the names that are gone.
    gone: HashMap<(NodeId, Name), NodeId>,
}

/// Objects in a row that had one name, as far back as is remembered.
const PREDECESSORS: usize = 32;

/// Where an object of the host was seen last.
#[derive(Clone, Debug)]
pub(super) struct IndexedObject {
    pub(super) object: HostId,
    pub(super) kind: ObjectKind,
    /// Relative to the lower root, without leading slash.
    pub(super) path: Arc<[u8]>,
    pub(super) names: Names,
    /// What had its name before: a host that saves a file usually puts a new one in its place.
    pub(super) before: Option<NodeId>,
    /// What its ACL takes from the permission bits, when the object was last changed at this time.
    pub(super) acl: Option<(Nanos, u16)>,
}

impl Index {
    /// Of the lower root and nothing else.
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

    pub(super) fn known(&self, node: NodeId) -> Option<&IndexedObject> {
        self.nodes.get(&node)
    }

    pub(super) fn note_acl(&mut self, node: NodeId, acl: (Nanos, u16)) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.acl = Some(acl);
        }
    }

    /// Whether the host has this object, unless that was found not to be so.
    pub(super) fn has(&self, node: NodeId) -> bool {
        let known = self.nodes.get(&node);
        known.is_some_and(|known| self.by_object.get(&known.object) == Some(&node))
    }

    /// The node that was last seen by this name.
    pub(super) fn named(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        self.by_name.get(&(dir, Name::from(name))).copied()
    }

    /// The node of an object that was seen at this path, which is `name` in `dir`.
    pub(super) fn seen(
        &mut self,
        (dir, name): (NodeId, &Name),
        path: Arc<[u8]>,
        (object, kind): (HostId, ObjectKind),
        new_node: impl FnOnce() -> NodeId,
    ) -> NodeId {
        // Another kind of object with a number used before is another object.
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
            // Another hard link, or the host moved it; a directory has one name.
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

    /// The object has this name from now on; what had it is remembered.
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

    /// The object with this name is not the one that it was taken for: the host gave the number of
    /// one that is gone to another, or changed it under another name. It gets a node of its own.
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

    /// What had the name of an object before it, the latest first.
    pub(super) fn predecessors(&self, node: NodeId) -> Vec<NodeId> {
        let before = |node: &NodeId| self.nodes.get(node)?.before;
        std::iter::successors(before(&node), before)
            .take(PREDECESSORS)
            .collect()
    }

    /// The host has no such name any more. With its last name goes the object, unless it was only
    /// `moved`: another that gets its inode number is another node.
    pub(super) fn forget_name(&mut self, dir: NodeId, name: &[u8], moved: bool) {
        let key = (dir, Name::from(name));
        let Some(node) = self.by_name.remove(&key) else {
            return;
        };
        self.gone.insert(key, node);
        if let Some(known) = self.nodes.get_mut(&node) {
            known.names.remove(dir, name);
            if known.names.first().is_none() && !moved {
                self.by_object.remove(&known.object);
            }
        }
    }

    /// The host has the object at this path, which is `name` in `dir`, because somebody put it
    /// there for `node`.
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
            // What is left of the object that was there before is somebody else's.
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

    /// The object's own number, for one that is seen for the first time. The host gives the number of an
    /// object that is gone to another one, and other devices have the same numbers: those are `None`.
    fn number(&self, (device, inode): HostId) -> Option<NodeId> {
        let node = NodeId::of_host(inode)?;
        let root = self.nodes.get(&NodeId::ROOT)?;
        (root.object.0 == device && !self.nodes.contains_key(&node)).then_some(node)
    }

    /// A directory moved on the host: so did everything that was seen below it.
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

/// Directory and last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

pub(super) fn join(dir: &[u8], name: &[u8]) -> Arc<[u8]> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path.into()
}
