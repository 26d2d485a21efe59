//! What differs between two trees. Finding it takes time in proportion to the difference, because
//! subtrees that both share are never looked at.

use std::collections::HashSet;
use std::sync::Arc;

use super::topo_sort::{Entry, topo_sort};
use crate::model::errno::{Errno, Result};
use crate::model::event::{Name, ObjectKind};
use crate::model::id::NodeId;
use crate::store::dir::Dir;
use crate::store::dir_paths::{DirPath, DirPaths, SortKey};
use crate::store::inode::Inode;
use crate::store::tree::Tree;
use crate::store::trie;
use crate::store::visibility::Visibility;

/// A name in a tree, with the path of its directory at the moment of the step.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Named {
    pub(crate) dir_path: DirPath,
    pub(crate) name: Name,
    pub(crate) dir: NodeId,
    pub(crate) node: NodeId,
    pub(crate) is_dir: bool,
}

impl Named {
    /// Returns whether the name has a path. Otherwise [`path`](Self::path) returns one that leads
    /// elsewhere.
    pub(crate) fn has_path(&self) -> bool {
        self.dir_path.reaches(&self.name)
    }

    pub(crate) fn path(&self) -> Vec<u8> {
        let mut path = self.dir_path.text.to_vec();
        path.push(b'/');
        path.extend_from_slice(&self.name);
        path
    }
}

/// The differences of an object that both trees show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Differs {
    /// The bytes of a file or the text of a symbolic link.
    pub content: bool,
    /// The permission bits.
    pub mode: bool,
    /// The owner or group.
    pub owner: bool,
    /// The modification time, of a file whose bytes are the same.
    pub mtime: bool,
    /// The extended attributes.
    pub xattrs: bool,
}

/// One step from the old tree to the new one.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Removed(Named),
    Renamed(Named, Named),
    Added(Named),
    Modified(NodeId, Differs),
}

impl Step {
    /// Returns the object that the step is about.
    pub(crate) fn node(&self) -> NodeId {
        match self {
            Self::Added(named) | Self::Removed(named) | Self::Renamed(_, named) => named.node,
            Self::Modified(node, _) => *node,
        }
    }

    /// Returns whether all names that the step is about have a path.
    pub(crate) fn has_path(&self, paths: &mut DirPaths, new: &Tree) -> bool {
        match self {
            Self::Added(named) | Self::Removed(named) => named.has_path(),
            Self::Renamed(from, to) => from.has_path() && to.has_path(),
            Self::Modified(node, _) => new.inode(*node).is_ok_and(|inode| {
                let place = paths.place_of(new, &inode);
                place.is_none_or(|place| !place.is_cut())
            }),
        }
    }
}

struct Collector<'a> {
    old: &'a Tree,
    new: &'a Tree,
    shown: (Visibility<'a>, Visibility<'a>),
    seen: HashSet<(bool, NodeId, Name)>,
    removed: Vec<Entry>,
    added: Vec<Entry>,
    modified: Vec<(NodeId, Differs)>,
}

/// Returns the steps from `old` to `new`, in an order in which they could be made. Objects that are
/// in the way are removed first, and parents are created before children. Objects that were only
/// modified come last, by their paths.
pub(crate) fn steps(old: &Tree, new: &Tree) -> Result<Vec<Step>> {
    let mut collector = Collector {
        old,
        new,
        shown: (Visibility::of(old), Visibility::of(new)),
        seen: HashSet::new(),
        removed: Vec::new(),
        added: Vec::new(),
        modified: Vec::new(),
    };
    let mut changed = Vec::new();
    trie::diff(old.inodes(), new.inodes(), &mut |key, a, b| {
        let same = matches!((a, b), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        if !same {
            changed.push(NodeId(key));
        }
    });
    for node in changed {
        collector.compare(node)?;
    }
    Ok(collector.order())
}

impl Collector<'_> {
    fn compare(&mut self, node: NodeId) -> Result<()> {
        let (old, new) = (self.shown.0.visible(node), self.shown.1.visible(node));
        let (Some(old), Some(new)) = (old, &new) else {
            // Only one tree shows the object. It is found by the entries of its directory, which
            // differ.
            if new.is_some_and(|inode| inode.is_dir()) {
                return self.add_below(true, node);
            }
            return Ok(());
        };
        if let (Some(a), Some(b)) = (old.as_dir(), new.as_dir()) {
            self.compare_entries(node, (&old, a), (new, b))?;
        }
        let differs = differs(self.old, self.new, node, &old, new)?;
        if differs != Differs::default() {
            self.modified.push((node, differs));
        }
        Ok(())
    }

    fn compare_entries(
        &mut self,
        dir: NodeId,
        old: (&Inode, &Dir),
        new: (&Inode, &Dir),
    ) -> Result<()> {
        let mut names: Vec<Name> = Vec::new();
        trie::diff(old.1.entries(), new.1.entries(), &mut |_, a, b| {
            if a != b {
                names.extend(
                    a.into_iter()
                        .chain(b)
                        .map(|entry: &crate::store::dir::Entry| entry.name.clone()),
                );
            }
        });
        if old.1.merges_lower != new.1.merges_lower {
            // One side has some of its names in the lower directory only.
            for (tree, inode) in [(self.old, old.0), (self.new, new.0)] {
                let all = tree.list(dir, inode)?.into_iter();
                names.extend(all.map(|(_, found)| found.name));
            }
        }
        names.sort();
        names.dedup();
        for name in names {
            let before = self.old.lookup(dir, old.0, &name)?;
            let after = self.new.lookup(dir, new.0, &name)?;
            if before == after {
                continue;
            }
            if let Some(found) = before {
                self.add(false, dir, found.name, found.node, found.kind)?;
            }
            if let Some(found) = after {
                self.add(true, dir, found.name, found.node, found.kind)?;
            }
        }
        Ok(())
    }

    /// Adds a name that only one of the trees has, and everything below if it is a directory that
    /// only this tree shows.
    fn add(
        &mut self,
        is_new: bool,
        dir: NodeId,
        name: Name,
        node: NodeId,
        kind: ObjectKind,
    ) -> Result<()> {
        let entry = Entry {
            dir,
            name,
            node,
            kind,
        };
        if self.note(is_new, entry) {
            self.add_below(is_new, node)?;
        }
        Ok(())
    }

    /// Adds everything below a directory, each directory before what is in it.
    fn add_below(&mut self, is_new: bool, top: NodeId) -> Result<()> {
        let tree = if is_new { self.new } else { self.old };
        // The entries that are still to be added, the next one last. The tree may be deeper than
        // any stack.
        let mut open = children(tree, top)?;
        while let Some(entry) = open.pop() {
            let node = entry.node;
            if self.note(is_new, entry) {
                open.append(&mut children(tree, node)?);
            }
        }
        Ok(())
    }

    /// Adds a name, if it was not added before; returns whether what is below is to be added too.
    fn note(&mut self, is_new: bool, entry: Entry) -> bool {
        if !self.seen.insert((is_new, entry.dir, entry.name.clone())) {
            return false;
        }
        let there = if is_new { &self.shown.0 } else { &self.shown.1 };
        let list = if is_new {
            &mut self.added
        } else {
            &mut self.removed
        };
        let (node, is_dir) = (entry.node, entry.kind.is_dir());
        list.push(entry);
        is_dir && there.visible(node).is_none()
    }

    fn order(mut self) -> Vec<Step> {
        let new = self.new;
        let mut paths = DirPaths::default();
        self.modified.sort_by_cached_key(|(node, _)| {
            let inode = new.inode(*node).ok()?;
            let (dir, name) = inode.names.first()?;
            // Objects without a path come last, the upper ones first.
            Some(SortKey::new(&paths.of(new, dir)?, name))
        });
        let modified = self.modified.into_iter();
        let mut steps = topo_sort(self.old, self.new, self.removed, self.added);
        steps.extend(modified.map(|(node, how)| Step::Modified(node, how)));
        steps
    }
}

/// Returns the entries of a directory, the first one last. A directory of the lower layer that lies
/// too deep for a path counts as empty.
fn children(tree: &Tree, dir: NodeId) -> Result<Vec<Entry>> {
    let inode = tree.inode(dir)?;
    let all = match tree.list(dir, &inode) {
        Err(Errno::ENAMETOOLONG) => Vec::new(),
        all => all?,
    };
    let all = all.into_iter().rev().map(|(_, found)| Entry {
        dir,
        name: found.name,
        node: found.node,
        kind: found.kind,
    });
    Ok(all.collect())
}

fn differs(
    old_tree: &Tree,
    new_tree: &Tree,
    node: NodeId,
    old: &Inode,
    new: &Inode,
) -> Result<Differs> {
    use crate::store::inode::Body;
    let content = match (&old.body, &new.body) {
        (Body::File(a), Body::File(b)) => {
            let versions = (old_tree.version_of(node, a), new_tree.version_of(node, b));
            let is_one = matches!(versions, (Some(a), Some(b)) if a.has_bytes_of(&b));
            !is_one && !a.same_content(b)
        }
        (Body::Symlink(a), Body::Symlink(b)) => a != b,
        _ => false,
    };
    let is_file = matches!(new.body, Body::File(_));
    Ok(Differs {
        content,
        mode: old.mode != new.mode,
        owner: (old.uid, old.gid) != (new.uid, new.gid),
        mtime: is_file && !content && old.times.mtime != new.times.mtime,
        xattrs: old_tree.xattrs(node, old)? != new_tree.xattrs(node, new)?,
    })
}
