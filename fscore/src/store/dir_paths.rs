//! The paths of directories, as far as a system call takes one.
//!
//! A tree may be deeper than any path, because a program can make it with relative names. All paths
//! in it together would take memory in proportion to the square of its depth, and no system call
//! would accept them. So a path is cut where it becomes too long, and everything deeper shares the
//! cut path.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::config::LONGEST_PATH;
use crate::model::event::{Name, Place};
use crate::model::id::NodeId;
use crate::store::inode::Inode;
use crate::store::tree::Tree;

/// How many directory paths, and how many bytes of them, are remembered before all are forgotten.
const MAX_KNOWN: usize = 1 << 16;
const MAX_BYTES: usize = 16 << 20;

/// Where a directory is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct DirPath {
    /// The canonical path, without a trailing slash. If that is too long, this is the path of the
    /// lowest directory above that has one, with a slash at its end.
    pub(crate) text: Arc<[u8]>,
    /// How many levels the directory lies below the one with that path.
    pub(crate) beyond: u32,
}

impl DirPath {
    pub(crate) fn root() -> Self {
        Self {
            text: Arc::from([]),
            beyond: 0,
        }
    }

    /// Returns the path of a directory in this one.
    pub(crate) fn child(&self, name: &[u8]) -> Self {
        if self.beyond > 0 {
            return Self {
                text: self.text.clone(),
                beyond: self.beyond.saturating_add(1),
            };
        }
        let is_cut = self.text.len() + 1 + name.len() > LONGEST_PATH;
        let name = if is_cut { b"" } else { name };
        Self {
            text: [&*self.text, b"/", name].concat().into(),
            beyond: u32::from(is_cut),
        }
    }

    /// Returns whether the object with this name in the directory has a path.
    pub(crate) fn reaches(&self, name: &[u8]) -> bool {
        self.beyond == 0 && self.text.len() + 1 + name.len() <= LONGEST_PATH
    }
}

/// A cache of the paths that were asked for, until a directory moves. A lookup costs the levels up
/// to the next directory whose path is cached.
#[derive(Debug, Default)]
pub(crate) struct DirPaths {
    known: FxHashMap<NodeId, DirPath>,
    bytes: usize,
}

impl DirPaths {
    /// Returns the path of a directory; `None` when it is no longer reached from the root.
    pub(crate) fn of(&mut self, tree: &Tree, dir: NodeId) -> Option<DirPath> {
        self.of_placed(dir, |node| {
            let inode = tree.inode(node).ok()?;
            let (parent, name) = inode.names.first()?;
            Some((parent, name.clone()))
        })
    }

    /// Returns where an object is, by any of its names; `None` for the root.
    pub(crate) fn place_of(&mut self, tree: &Tree, inode: &Inode) -> Option<Place> {
        let (parent, name) = inode.names.first()?;
        Some(Place {
            parent,
            dir: self.of(tree, parent)?.text,
            name: name.clone(),
        })
    }

    /// Returns the path of a directory, where `place` returns in which directory each one is and by
    /// which name.
    pub(crate) fn of_placed(
        &mut self,
        dir: NodeId,
        place: impl Fn(NodeId) -> Option<(NodeId, Name)>,
    ) -> Option<DirPath> {
        let mut way: Vec<(NodeId, Name)> = Vec::new();
        let mut at = dir;
        let mut path = loop {
            if let Some(path) = self.known.get(&at) {
                break path.clone();
            }
            if at == NodeId::ROOT {
                break DirPath::root();
            }
            let (parent, name) = place(at)?;
            way.push((at, name));
            at = parent;
        };
        for (node, name) in way.into_iter().rev() {
            path = path.child(&name);
            self.remember(node, &path);
        }
        Some(path)
    }

    fn remember(&mut self, node: NodeId, path: &DirPath) {
        // All directories further below share the text of the cut path.
        let bytes = if path.beyond > 1 { 0 } else { path.text.len() };
        if self.known.len() >= MAX_KNOWN || self.bytes + bytes > MAX_BYTES {
            self.clear();
        }
        self.bytes += bytes;
        self.known.insert(node, path.clone());
    }

    /// Forgets a directory that was removed, and was empty.
    pub(crate) fn forget(&mut self, dir: NodeId) {
        self.known.remove(&dir);
    }

    /// Forgets all paths, because a directory moved.
    pub(crate) fn clear(&mut self) {
        self.known = FxHashMap::default();
        self.bytes = 0;
    }
}

impl Tree {
    /// Returns the canonical path of a name; `None` when there is none, or it would be too long.
    pub(crate) fn path_in(&self, dir: NodeId, name: &[u8]) -> Option<Vec<u8>> {
        let mut path = self.dir_path(dir)?;
        path.push(b'/');
        path.extend_from_slice(name);
        (path.len() <= LONGEST_PATH).then_some(path)
    }

    /// Returns the canonical path of a directory, without a trailing slash; `None` when the
    /// directory is no longer reached from the root, or lies too deep for a path.
    pub(crate) fn dir_path(&self, dir: NodeId) -> Option<Vec<u8>> {
        let mut names: Vec<Name> = Vec::new();
        let (mut at, mut length) = (dir, 0);
        while at != NodeId::ROOT {
            let inode = self.inode(at).ok()?;
            let (parent, name) = inode.names.first()?;
            length += 1 + name.len();
            if length > LONGEST_PATH {
                return None;
            }
            names.push(name.clone());
            at = parent;
        }
        let mut path = Vec::with_capacity(length);
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        Some(path)
    }
}
