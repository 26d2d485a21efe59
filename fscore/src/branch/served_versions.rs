//! The versions of the host's files that a branch has shown: what a change that it makes is based
//! on, and so what conflicts are judged by.

use rustc_hash::FxHashMap;

use crate::model::id::NodeId;
use crate::model::stamp::Stamp;
use crate::sync::Mutex;

/// Of every file and symbolic link that the branch shows as the host has it, which version was shown
/// last. Whoever looks later, to change it, may find another one there.
#[derive(Debug, Default)]
pub(crate) struct ServedVersions(Mutex<FxHashMap<NodeId, Version>>);

#[derive(Clone, Copy, Debug)]
struct Version {
    stamp: Stamp,
    /// Whether it was opened to be read, and not only looked at.
    is_content: bool,
}

impl ServedVersions {
    /// Attributes were shown. What was read before counts more: it is what an editor holds.
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

    /// The file was opened to be read, or the branch itself put this version on the host.
    pub(crate) fn content(&self, node: NodeId, stamp: Stamp) {
        let version = Version {
            stamp,
            is_content: true,
        };
        self.0.lock().insert(node, version);
    }

    /// What a change of a file made now is based on, if the branch has shown anything: the file
    /// itself, or what the host had in its place before. What was read counts more than what was
    /// looked at later.
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
