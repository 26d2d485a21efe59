//! The paths of directories, as far as a system call takes one.
//!
//! A tree may be deeper than any path: a program makes it with relative names. All paths in it
//! together would take memory in proportion to the square of its depth, and nobody could use them.
//! So a path is cut where it becomes too long, and what lies deeper shares the cut one.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::config::LONGEST_PATH;
use crate::model::event::{Name, Place};
use crate::model::id::NodeId;
use crate::store::inode::Inode;
use crate::store::tree::Tree;

/// Directory paths that are remembered before all are forgotten, and their bytes.
const MAX_KNOWN: usize = 1 << 16;
const MAX_BYTES: usize = 16 << 20;

/// Where a directory is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct DirPath {
    /// The canonical path, without a trailing slash. When that is too long: that of the lowest
    /// directory above that has one, with a slash at its end.
    pub(crate) text: Arc<[u8]>,
    /// How many levels below that the directory lies.
    pub(crate) beyond: u32,
}

impl DirPath {
    pub(crate) fn root() -> Self {
        Self {
            text: Arc::from([]),
            beyond: 0,
        }
    }

    /// The path of a directory in this one.
    fn child(&self, name: &[u8]) -> Self {
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

    /// Whether what has this name here has a path.
    pub(crate) fn reaches(&self, name: &[u8]) -> bool {
        self.beyond == 0 && self.text.len() + 1 + name.len() <= LONGEST_PATH
    }
}

/// Those that were asked for, until a directory moves. Asking for one costs the levels up to the next
/// that is known.
#[derive(Debug, Default)]
pub(crate) struct DirPaths {
    known: FxHashMap<NodeId, DirPath>,
    bytes: usize,
}

impl DirPaths {
    /// `None` when the directory is not reached from the root any more.
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

    /// The same where `place` says in which directory each one is, and by which name.
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
        // What is cut is shared.
        let bytes = if path.beyond > 1 { 0 } else { path.text.len() };
        if self.known.len() >= MAX_KNOWN || self.bytes + bytes > MAX_BYTES {
            self.clear();
        }
        self.bytes += bytes;
        self.known.insert(node, path.clone());
    }

    /// This directory is gone; nothing was in it.
    pub(crate) fn forget(&mut self, dir: NodeId) {
        self.known.remove(&dir);
    }

    /// A directory moved.
    pub(crate) fn clear(&mut self) {
        self.known = FxHashMap::default();
        self.bytes = 0;
    }
}
