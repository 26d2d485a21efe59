//! Files that a branch cannot show any more.

use std::path::PathBuf;

use crate::branch::Branch;
use crate::diff::place_of;
use crate::id::NodeId;
use crate::paths::DirPaths;

impl Branch {
    /// The files of which the branch holds a part, and whose other part is gone because the host
    /// has changed them since. Reading that part is `ESTALE`.
    #[must_use]
    pub fn unreadable(&self) -> Vec<PathBuf> {
        let Some(lower) = self.core.shared.lower.as_ref() else {
            return Vec::new();
        };
        let tree = self.inner.read().tree.without_orphans();
        let (mut all, mut paths) = (Vec::new(), DirPaths::default());
        for (key, inode) in tree.inodes().iter() {
            // A file that was only moved or touched is the host's, whatever that holds by now.
            let file = inode.as_file().filter(|file| !file.is_only_base());
            let Some(stamp) = file.and_then(crate::content::File::needs) else {
                continue;
            };
            let found = lower.inode(NodeId(key)).ok();
            if found.is_none_or(|it| !it.stamp().has_bytes_of(&stamp))
                && let Some(place) = place_of(&mut paths, &tree, inode)
            {
                all.push(place.path());
            }
        }
        all.sort();
        all
    }
}
