//! Newtypes for every integer that names something.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// An object of the filesystem: `st_ino` on a mount. Unique over all branches and never reused
    /// while the [`FsCore`](crate::FsCore) lives; a node keeps its id in every branch that shares
    /// it. An object of the lower directory has its inode number there as its id, unless another
    /// node has ever had that number.
    NodeId
}
id! {
    /// A writable view.
    BranchId
}
id! {
    /// A frozen view.
    SnapshotId
}
id! {
    /// The lower directory as it was when it was taken.
    BaseId
}
id! {
    /// The position of an event in its branch: commit order, from 1, without gaps.
    Seq
}
id! {
    /// A mount of a branch, as the daemon numbers them.
    MountId
}
id! {
    /// A control session, as the daemon numbers them.
    SessionId
}

/// The numbers of nodes that are not the host's. They fit 32 bits, for programs that know no larger
/// ones, and few inodes of a host have them.
const OURS: RangeInclusive<u64> = 1 << 31..=u32::MAX as u64;

/// Where these numbers continue, should there be more nodes than that.
const OURS_TOO: u64 = 1 << 63;

impl NodeId {
    /// The root directory of every branch.
    pub const ROOT: Self = Self(1);

    /// Returns the number of the `count`-th node that is not one of the host.
    pub(crate) fn of_ours(count: u64) -> Self {
        let first = OURS.start() + count;
        Self(if OURS.contains(&first) {
            first
        } else {
            OURS_TOO | count
        })
    }

    /// Returns which node this is of those that are not of the host.
    fn count_of_ours(self) -> Option<u64> {
        if OURS.contains(&self.0) {
            Some(self.0 - OURS.start())
        } else {
            (self.0 & OURS_TOO != 0).then_some(self.0 & !OURS_TOO)
        }
    }

    /// Returns the number that an object has on the host, so that a program that remembers inode
    /// numbers (git, in its index) finds the file unchanged. Returns `None` if a node that is not
    /// the host's could have the number as well.
    pub(crate) fn of_host(inode: u64) -> Option<Self> {
        let is_free = inode > Self::ROOT.0 && inode < OURS_TOO && !OURS.contains(&inode);
        is_free.then_some(Self(inode))
    }
}

/// How many numbers a restart leaves out.
const UNLOGGED: u64 = 1 << 20;

/// Hands out the numbers of the nodes that are not the host's.
#[derive(Debug, Default)]
pub(crate) struct NodeNumbers(AtomicU64);

impl NodeNumbers {
    /// Returns a number that no node ever had, and no object of the host can have.
    pub(crate) fn next(&self) -> NodeId {
        NodeId::of_ours(self.0.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands out no number from now on that this node has.
    pub(crate) fn skip(&self, node: NodeId) {
        if let Some(count) = node.count_of_ours() {
            self.0.fetch_max(count + 1, Ordering::Relaxed);
        }
    }

    /// Returns how many numbers have been handed out.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Leaves out so many numbers, and some more: those of objects of the host are in no log.
    pub(crate) fn skip_all(&self, count: u64) {
        self.0.fetch_max(count + UNLOGGED, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_of_the_host_has_a_number_of_ours() {
        let edges = [0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) + 7, (1 << 63) - 1];
        for number in edges.map(NodeId::of_ours) {
            assert_eq!(NodeId::of_host(number.0), None, "{number}");
        }
        for inode in [2, 1 << 20, (1 << 31) - 1, 1 << 32, 1 << 47, (1 << 63) - 1] {
            assert_eq!(NodeId::of_host(inode), Some(NodeId(inode)));
        }
        let all = [NodeId::ROOT.0, 0, 1 << 31, 0xFFFF_FFFF, 1 << 63, u64::MAX];
        for inode in all {
            assert_eq!(NodeId::of_host(inode), None, "{inode}");
        }
    }

    #[test]
    fn numbers_of_ours_are_all_different() {
        let last = (1 << 31) - 1;
        assert_eq!(NodeId::of_ours(last), NodeId(0xFFFF_FFFF));
        assert_eq!(NodeId::of_ours(last + 1), NodeId((1 << 63) | (1 << 31)));
        for count in [0, 7, last, last + 1, last + 7] {
            assert_eq!(NodeId::of_ours(count).count_of_ours(), Some(count));
        }
    }
}
