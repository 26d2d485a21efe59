//! The versions of the pages that the kernel may hold, for files that the branch shows as the host has
//! them.
//!
//! A change that is emitted is invalidated. A change that is not emitted is found when a program opens
//! the file, or asks for its attributes: the host is looked at in these requests anyway. When the
//! version is another than that of the pages, the kernel is made to drop them: at an open by the answer
//! (no `FOPEN_KEEP_CACHE`), else by an invalidation. So pages are always of the version remembered
//! here or, where the host changed the file while it is open, of later ones. What was open before
//! goes on with the pages that are there until then, as on NFS.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use agentfs_core::event::ObjectKind;
use agentfs_core::id::NodeId;
use agentfs_core::{HandleId, Shown, Stamp};
use fuser::{FopenFlags, INodeNo};

use crate::convert::nanos;
use crate::kernel_cache::{KernelCache, report};

/// How coarse the times of a filesystem may be: a version that is not older may be followed by
/// another that looks the same.
const GRAIN: Duration = Duration::from_secs(2);

/// The version of the pages of a file.
#[derive(Debug)]
pub(crate) struct PageVersion {
    of: Stamp,
    /// Whether a later version would certainly look different.
    is_settled: bool,
    /// The handle at whose opening the kernel drops what is older. Until a request with it comes,
    /// that may not be done yet.
    opening: Option<HandleId>,
}

/// What the answer to an open has to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OpenReply {
    /// Whether the kernel may keep its pages.
    pub(crate) keeps_pages: bool,
    /// Whether the kernel may have attributes of another version.
    pub(crate) is_outdated: bool,
}

impl OpenReply {
    pub(crate) fn flags(self) -> FopenFlags {
        if self.keeps_pages {
            FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::empty()
        }
    }
}

/// Returns whether a version is so old that a later one would certainly look different.
pub(crate) fn is_settled(version: &Stamp) -> bool {
    let age = nanos(SystemTime::now()).saturating_sub(version.ctime);
    u128::from(age.unsigned_abs()) > GRAIN.as_nanos()
}

impl KernelCache {
    /// Notes that a file of this version was opened; `None` if the branch has its own content.
    pub(crate) fn opened(
        &self,
        node: NodeId,
        handle: HandleId,
        version: Option<Stamp>,
    ) -> OpenReply {
        let mut shard = self.shard(node);
        let Some(known) = shard.get_mut(&node) else {
            return OpenReply {
                keeps_pages: version.is_none(),
                is_outdated: true,
            };
        };
        let is_outdated = known.version != version;
        let Some(version) = version else {
            self.no_longer_opening(known.pages.take());
            return OpenReply {
                keeps_pages: true,
                is_outdated,
            };
        };
        let keeps_pages = match &mut known.pages {
            Some(pages) if pages.of == version && pages.is_settled => pages.opening.is_none(),
            old => {
                let pages = Box::new(PageVersion {
                    of: version,
                    is_settled: is_settled(&version),
                    opening: Some(handle),
                });
                self.openings.fetch_add(1, Ordering::Relaxed);
                self.no_longer_opening(old.replace(pages));
                false
            }
        };
        OpenReply {
            keeps_pages,
            is_outdated,
        }
    }

    /// Notes a request with this handle: its open is over, and older pages are dropped.
    pub(crate) fn note_request(&self, node: NodeId, handle: HandleId) {
        if self.openings.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut shard = self.shard(node);
        let pages = shard.get_mut(&node).and_then(|it| it.pages.as_mut());
        if let Some(pages) = pages
            && pages.opening == Some(handle)
        {
            pages.opening = None;
            self.openings.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Keeps count of openings that are not waited for any more.
    pub(crate) fn no_longer_opening(&self, pages: Option<Box<PageVersion>>) {
        if pages.is_some_and(|pages| pages.opening.is_some()) {
            self.openings.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Returns the version of the pages that the kernel may have, if they are of the host's file.
    pub(crate) fn version_of_pages(&self, node: NodeId) -> Option<Stamp> {
        let shard = self.shard(node);
        Some(shard.get(&node)?.pages.as_ref()?.of)
    }

    /// Notes that attributes are answered. If they are of another version than pages of the file, or
    /// the text of the symbolic link, that the kernel may have, makes it drop those first: the
    /// attributes would lengthen the file, and zeros would stand where there are no pages.
    ///
    /// Waits for reads that are under way, which other threads answer: one thread at a time, so that
    /// there is another. Else the next answer does it.
    pub(crate) fn before_attributes_reply(&self, shown: &Shown) {
        let node = shown.attr.node;
        let is_old = {
            let mut shard = self.shard(node);
            let Some(known) = shard.get_mut(&node) else {
                return;
            };
            let before = std::mem::replace(&mut known.version, shown.version);
            let held = match &known.pages {
                Some(pages) => Some(pages.of),
                None if shown.attr.kind == ObjectKind::Symlink => before,
                None => None,
            };
            shown.version.is_some() && held.is_some() && held != shown.version
        };
        let (true, Some(notifier), Some(version)) = (is_old, self.notifier(), shown.version) else {
            return;
        };
        let Some(_turn) = self.dropping.try_lock() else {
            return;
        };
        report(notifier.inval_inode(INodeNo(node.0), 0, 0));
        let mut shard = self.shard(node);
        let pages = shard.get_mut(&node).and_then(|it| it.pages.as_mut());
        if let Some(pages) = pages {
            pages.of = version;
            pages.is_settled = is_settled(&version);
        }
    }

    /// Makes the kernel ask for the attributes again. Does not wait for anything.
    pub(crate) fn forget_attributes(&self, node: NodeId) {
        if let Some(notifier) = self.notifier() {
            report(notifier.inval_inode(INodeNo(node.0), -1, 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use agentfs_core::id::MountId;

    use super::*;

    const NODE: NodeId = NodeId(7);

    fn version(mtime: i64) -> Stamp {
        Stamp {
            size: 3,
            mtime,
            ctime: mtime,
            inode: 0,
        }
    }

    fn cache() -> KernelCache {
        let cache = KernelCache::new(MountId(1), false);
        cache.count(NodeId::ROOT, NODE);
        cache
    }

    #[test]
    fn pages_are_kept_once_the_kernel_has_certainly_dropped_older_ones() {
        let cache = cache();
        let keeps = |handle, version| cache.opened(NODE, HandleId(handle), version).keeps_pages;
        for old in [version(1), version(2)] {
            assert!(!keeps(1, Some(old)));
            // The first open may not be over.
            assert!(!keeps(2, Some(old)));
            cache.note_request(NODE, HandleId(2));
            assert!(!keeps(3, Some(old)));
            cache.note_request(NODE, HandleId(1));
            assert!(keeps(4, Some(old)));
            assert!(keeps(5, Some(old)));
        }
        assert_eq!(cache.openings.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_version_that_another_may_look_like_is_not_relied_on() {
        let cache = cache();
        let now = version(nanos(SystemTime::now()));
        for handle in 1..4 {
            let opening = cache.opened(NODE, HandleId(handle), Some(now));
            assert!(!opening.keeps_pages);
            cache.note_request(NODE, HandleId(handle));
        }
    }

    #[test]
    fn the_pages_of_what_the_branch_has_changed_are_kept_and_not_those_of_what_comes_after() {
        let cache = cache();
        let keeps = |handle, version| cache.opened(NODE, HandleId(handle), version).keeps_pages;
        assert!(!keeps(1, Some(version(1))));
        assert!(keeps(2, None));
        // Applied: what the host has now is what the branch wrote, which nobody has compared.
        assert!(!keeps(3, Some(version(1))));
        cache.forget(NODE, 1);
        assert_eq!(cache.openings.load(Ordering::Relaxed), 0);
    }
}
