//! Files that a branch can no longer show.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::branch::Branch;
use crate::model::id::NodeId;
use crate::store::dir_paths::DirPaths;
use crate::store::inode::Inode;
use crate::store::tree::Tree;

impl Branch {
    /// Returns the files of which the branch has changed a part of the bytes, the name or the
    /// attributes, and whose other bytes are gone because the host has changed the file since.
    /// Reading those bytes is `ESTALE`.
    #[must_use]
    pub fn unreadable(&self) -> Vec<PathBuf> {
        let tree = self.inner.read().tree.without_orphans();
        let mut all: Vec<PathBuf> = self.unreadable_in(&tree).into_values().collect();
        all.sort();
        all
    }

    /// Returns the same for a version of the branch, by node.
    pub(crate) fn unreadable_in(&self, tree: &Tree) -> HashMap<NodeId, PathBuf> {
        let Some(lower) = self.core.shared.lower.as_ref() else {
            return HashMap::new();
        };
        let (mut all, mut paths) = (HashMap::new(), DirPaths::default());
        for (key, inode) in tree.inodes().iter() {
            // A file that was only moved or touched shows the host's bytes, whatever they are by
            // now.
            let file = inode.as_file().filter(|file| !file.is_only_base());
            let Some(stamp) = file.and_then(crate::store::content::File::needs) else {
                continue;
            };
            let found = lower.inode(NodeId(key)).map(Inode::from).ok();
            if found.is_none_or(|it| !it.stamp().has_bytes_of(&stamp))
                && let Some(place) = paths.place_of(tree, inode)
            {
                all.insert(NodeId(key), place.path());
            }
        }
        all
    }
}
