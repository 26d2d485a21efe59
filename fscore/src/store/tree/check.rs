//! Whether what was read of a store is a tree. Each record by itself may make sense, and all of them
//! together may still say that a directory lies in itself.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::Tree;
use crate::model::id::NodeId;
use crate::store::dir::{Dir, Entry, Link};
use crate::store::format::bytes::Malformed;
use crate::store::inode::Inode;
use crate::store::trie::{Trie, diff};

impl Tree {
    /// Checks that each directory has one name and that none lies in itself, and returns the objects
    /// whose link counts are smaller than they can be. Parts that are shared with a tree that was
    /// checked before cost nothing.
    pub(crate) fn check(&self, checked: Option<&Self>) -> Result<Vec<NodeId>, Malformed> {
        let nothing = Trie::default();
        let before = checked.map_or(&nothing, |tree| &tree.inodes);
        let mut changed = Vec::new();
        diff(before, &self.inodes, &mut |node, old, new| {
            let is_same = matches!((old, new), (Some(old), Some(new)) if Arc::ptr_eq(old, new));
            if !is_same {
                changed.push((NodeId(node), old, new));
            }
        });
        for (node, old, new) in &changed {
            if let Some(old) = old.filter(|old| old.is_dir()) {
                self.check_old_names(old)?;
            }
            if let Some(dir) = new.and_then(|new| new.as_dir()) {
                let old = old.and_then(|old| old.as_dir());
                self.check_entries(*node, old, dir)?;
            }
        }
        let dirs = changed
            .iter()
            .filter(|(_, _, new)| new.is_some_and(|new| new.is_dir()));
        self.check_ways(dirs.map(|(node, _, _)| *node))?;
        let has_too_few = |inode: &Inode| inode.nlink < self.least_links(inode);
        let wrong = changed
            .iter()
            .filter(|(_, _, new)| new.is_some_and(|new| has_too_few(new)));
        Ok(wrong.map(|(node, _, _)| *node).collect())
    }

    /// Checks the entries by which a directory was reached in the tree that was checked before.
    fn check_old_names(&self, old: &Inode) -> Result<(), Malformed> {
        for (dir, name) in old.names.iter() {
            let above = self.inodes.get(dir.0).and_then(|above| above.as_dir());
            let entry =
                above.and_then(|above| above.find(name, self.shared.config.case_sensitivity));
            if let Some((_, entry)) = entry {
                self.check_entry(dir, entry)?;
            }
        }
        Ok(())
    }

    /// Checks the entries that differ from those of a directory that was checked.
    fn check_entries(&self, dir: NodeId, old: Option<&Dir>, new: &Dir) -> Result<(), Malformed> {
        let nothing = Trie::default();
        let mut checked = Ok(());
        let before = old.map_or(&nothing, Dir::entries);
        diff(before, new.entries(), &mut |_, _, entry| {
            if let (Some(entry), Ok(())) = (entry, &checked) {
                checked = self.check_entry(dir, entry);
            }
        });
        checked
    }

    /// Checks that an entry that leads to a directory is the only name of that.
    fn check_entry(&self, dir: NodeId, entry: &Entry) -> Result<(), Malformed> {
        let Link::To(node, _) = entry.link else {
            return Ok(());
        };
        let Some(inode) = self.inodes.get(node.0).filter(|inode| inode.is_dir()) else {
            return Ok(());
        };
        let mut names = inode.names.iter();
        let is_its_name = names
            .next()
            .is_some_and(|(own, name)| own == dir && *name == entry.name);
        match is_its_name && names.next().is_none() && node != NodeId::ROOT {
            true => Ok(()),
            false => Err(Malformed::Names(node.0)),
        }
    }

    /// Checks that the way up from each of these directories ends.
    fn check_ways(&self, dirs: impl Iterator<Item = NodeId>) -> Result<(), Malformed> {
        let mut ends = FxHashSet::default();
        let mut way = FxHashSet::default();
        for dir in dirs {
            let mut next = Some(dir);
            while let Some(at) = next.filter(|at| *at != NodeId::ROOT && !ends.contains(at)) {
                if !way.insert(at) {
                    return Err(Malformed::Cycle(at.0));
                }
                let inode = self.inodes.get(at.0);
                next = inode
                    .and_then(|inode| inode.names.first())
                    .map(|(above, _)| above);
            }
            ends.extend(way.drain());
        }
        Ok(())
    }

    /// Raises the link counts of these objects, which are too small, to the least that their names
    /// allow.
    pub(crate) fn correct_links(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            let least = self.inodes.get(node.0).map(|inode| self.least_links(inode));
            if let (Some(least), Some(inode)) = (least, self.inodes.get_mut(node.0)) {
                Arc::make_mut(inode).nlink = least;
            }
        }
    }

    /// Returns how many links an object has at least. The host says how many its objects have, and
    /// may have removed some of their names.
    fn least_links(&self, inode: &Inode) -> u32 {
        let names = u32::try_from(inode.names.iter().count()).unwrap_or(u32::MAX);
        match (inode.is_dir(), &self.shared.lower) {
            (true, None) => names.min(1) * 2,
            (false, None) => names,
            (_, Some(_)) => names.min(1),
        }
    }
}
