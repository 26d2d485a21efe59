//! The versions of the host's files that a branch has shown. A change that the branch makes is
//! based on one of them, and conflicts are judged by it.

use rustc_hash::FxHashMap;

use crate::model::id::NodeId;
use crate::model::stamp::Stamp;
use crate::sync::Mutex;

/// For each file and symbolic link that the branch shows as the host has it, the version that was
/// shown last. When the branch changes the file later, the host may have another version.
#[derive(Debug, Default)]
pub(crate) struct ServedVersions(Mutex<FxHashMap<NodeId, Version>>);

#[derive(Clone, Copy, Debug)]
struct Version {
    stamp: Stamp,
    /// Whether this version was opened to be read, and not only its attributes were shown.
    is_content: bool,
}

impl ServedVersions {
    /// Records that attributes were shown. They do not replace a version that was read, because
    /// that is the one which an editor holds.
    pub(crate) fn attributes(&self, node: NodeId, stamp: Stamp) {
        let mut all = self.0.lock();
        let version = all.entry(node).or_insert(Version {
            stamp,
            is_content: false,
        });
        if !version.is_content {
            version.stamp = stamp;
        }
    }

    /// Records that the file was opened to be read, or that the branch itself put this version on
    /// the host.
    pub(crate) fn content(&self, node: NodeId, stamp: Stamp) {
        let version = Version {
            stamp,
            is_content: true,
        };
        self.0.lock().insert(node, version);
    }

    /// Returns the version on which a change made now is based, if the branch has shown one: of the
    /// file itself, or of a file that the host had in its place before. A version that was read
    /// takes precedence over one that was only looked at.
    pub(crate) fn base(&self, node: NodeId, before: &[NodeId]) -> Option<Stamp> {
        let all = self.0.lock();
        let shown = || {
            std::iter::once(&node)
                .chain(before)
                .filter_map(|it| all.get(it))
        };
        let read = shown().find(|version| version.is_content);
        read.or_else(|| shown().next()).map(|version| version.stamp)
    }
}
