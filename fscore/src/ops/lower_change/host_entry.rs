//! A name on the host as it was when a change was made, which may be long ago.

use std::path::Path;

use std::os::unix::ffi::OsStrExt as _;

use crate::lower::{Lower, split};
use crate::model::event::{ObjectKind, Place};
use crate::model::id::NodeId;
use crate::model::names::Found;
use crate::store::dir_paths::DirPaths;
use crate::store::tree::Tree;

/// A name on the host: the directories on the way to it, from the root, and the name in the last of
/// them.
pub(super) struct HostEntry<'p> {
    dirs: Vec<Dir<'p>>,
    pub(super) path: &'p [u8],
    pub(super) name: &'p [u8],
    /// The number of the last directory. It is a new one if nobody ever saw that directory.
    parent: NodeId,
}

struct Dir<'p> {
    name: &'p [u8],
    /// `None` for a directory that nobody ever saw, and that is gone from the host.
    node: Option<NodeId>,
}

impl<'p> HostEntry<'p> {
    /// Finds the directories on the way. What a directory was when the change was made is what the
    /// changes before it have left in the index; the host is asked only about directories that were
    /// never looked at, because it may have something else there by now.
    pub(super) fn find(lower: &Lower, path: &'p Path, new: impl FnOnce() -> NodeId) -> Self {
        let path = path.as_os_str().as_bytes();
        let (way, name) = split(path);
        let root = Dir {
            name: b"",
            node: Some(NodeId::ROOT),
        };
        let mut dirs = vec![root];
        let mut at = Some(NodeId::ROOT);
        let names = way.split(|byte| *byte == b'/');
        for name in names.filter(|name| !name.is_empty()) {
            at = at.and_then(|dir| {
                let seen = lower.seen_with_kind(dir, name);
                let seen = seen.filter(|(_, kind)| kind.is_dir()).map(|(node, _)| node);
                seen.or_else(|| {
                    let found = lower.lookup(dir, name).ok().flatten()?;
                    found.kind.is_dir().then_some(found.node)
                })
            });
            dirs.push(Dir { name, node: at });
        }
        Self {
            dirs,
            path,
            name,
            parent: at.unwrap_or_else(new),
        }
    }

    /// Returns the node of the directory, if anybody ever saw it.
    pub(super) fn dir(&self) -> Option<NodeId> {
        self.dirs.last().and_then(|dir| dir.node)
    }

    /// Returns the node that was last seen by this name, and what it was.
    pub(super) fn seen(&self, lower: &Lower) -> Option<(NodeId, ObjectKind)> {
        lower.seen_with_kind(self.dir()?, self.name)
    }

    /// Looks the name up on the host, which may have something else there by now, or nothing.
    pub(super) fn lookup(&self, lower: &Lower) -> Option<Found> {
        lower.lookup(self.dir()?, self.name).ok().flatten()
    }

    /// Returns the name as the branch shows it; `None` if the branch hides it, by an entry or whiteout
    /// of its own or by hiding a directory on the way. `node` is what the name leads to.
    ///
    /// The lowest directory on the way that the branch has as its own decides, and may have moved.
    /// What is below it is the host's, so the host need not be asked, and need not have it any more.
    pub(super) fn shown(&self, tree: &Tree, node: Option<NodeId>) -> Option<Place> {
        let is_own = |dir: &Dir<'_>| dir.node.is_some_and(|node| tree.is_own(node));
        let at = self.dirs.iter().rposition(is_own)?;
        let own = self.dirs[at].node?;
        let inode = tree.inode(own).ok().filter(|inode| inode.nlink > 0)?;
        let entries = inode.as_dir().filter(|dir| dir.merges_lower)?;
        let below = &self.dirs[at + 1..];
        let next = below
            .first()
            .map_or((self.name, node), |it| (it.name, it.node));
        let case = tree.shared.config.case_sensitivity;
        match (entries.find(next.0, case), next.1) {
            (None, _) => {}
            (Some((_, entry)), Some(node)) if entry.leads_to(node) => {}
            (Some(_), _) => return None,
        }
        let dir = DirPaths::default().of(tree, own)?;
        let dir = below.iter().fold(dir, |dir, below| dir.child(below.name));
        Some(Place {
            parent: self.parent,
            dir: dir.text,
            name: self.name.into(),
        })
    }
}
