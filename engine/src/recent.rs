//! What the unread records of a queue say already.

use agentfs_proto::record::{AgentFsEvent, Kind};

use crate::channel::RecordPosition;

/// What the last record of a queue said, and which paths have unread records: enough to see what a
/// record would repeat.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    pub(crate) watch: u64,
    pub(crate) kind: Kind,
    pub(crate) mask: u32,
    pub(crate) flags: u32,
    pub(crate) path: Vec<u8>,
    /// The path of the record that is being made, and the new path of a rename.
    pub(crate) scratch: (Vec<u8>, Vec<u8>),
    /// FSEvents: the unread flags of paths, each at the place that the hash of the path chooses.
    pub(crate) unread: Vec<PathFlags>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PathFlags {
    pub(crate) hash: u64,
    pub(crate) watch: u64,
    pub(crate) flags: u32,
    pub(crate) first: RecordPosition,
}

/// How many paths of an FSEvents queue are remembered at a time.
pub(crate) const PATHS: usize = 256;

impl Recent {
    pub(crate) fn key(&mut self, event: &AgentFsEvent) {
        self.watch = event.watch;
        self.kind = event.kind;
        self.mask = event.mask;
        self.flags = event.flags;
    }

    pub(crate) fn remember(&mut self, event: &AgentFsEvent, path: &[u8]) {
        self.key(event);
        self.path.clear();
        self.path.extend_from_slice(path);
    }
}
