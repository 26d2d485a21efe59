//! The tree that a watch is on.

use std::sync::Arc;

use agentfs_core::id::BranchId;

use crate::api::Api;
use crate::synth::fsevents::CREATE_WATCH_ROOT;

/// A tree, and what a watch on it asks for.
#[derive(Clone, Debug)]
pub(crate) struct WatchedTree {
    pub(crate) api: Api,
    pub(crate) branch: BranchId,
    /// The top of the tree, without a trailing slash. The root is empty.
    pub(crate) path: Arc<[u8]>,
    /// Native: whether opening, reading and closing are heard too.
    pub(crate) activity: bool,
    /// FSEvents: `kFSEventStreamCreateFlag*`.
    pub(crate) flags: u32,
}

impl WatchedTree {
    /// Returns whether the watch may hear of opening, reading and closing.
    pub(crate) fn asks_for_activity(&self) -> bool {
        self.activity || self.api == Api::FsEvents
    }

    /// Returns whether the watch hears that its top moved.
    pub(crate) fn asks_for_root(&self) -> bool {
        self.flags & CREATE_WATCH_ROOT != 0
    }
}
