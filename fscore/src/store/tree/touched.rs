//! Which parts of a tree an operation has changed, for the log.

use super::Tree;
use crate::model::id::NodeId;

/// What was changed since the last record. A clone of a tree has changed nothing.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// The tree that was there before, if all of it was replaced.
    pub(super) before: Option<Box<Tree>>,
    /// Objects whose metadata or content was changed, and objects that are gone.
    pub(super) nodes: Vec<NodeId>,
    /// Objects that were put in as they are.
    pub(super) new: Vec<NodeId>,
    /// Names, by directory and by the first key of their hash.
    pub(super) names: Vec<(NodeId, u64)>,
    pub(super) orphans: Vec<NodeId>,
    pub(super) seen: Vec<NodeId>,
    /// Whether the base was changed.
    pub(super) base: bool,
    /// Whether the quota was changed.
    pub(super) quota: bool,
}

impl Clone for Touched {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Touched {
    /// Puts each list in order, and leaves out what is in it twice.
    pub(super) fn sort(&mut self) {
        for nodes in [
            &mut self.nodes,
            &mut self.new,
            &mut self.orphans,
            &mut self.seen,
        ] {
            nodes.sort_unstable();
            nodes.dedup();
        }
        self.names.sort_unstable();
        self.names.dedup();
    }

    /// Forgets everything, and keeps the room.
    pub(super) fn clear(&mut self) {
        self.before = None;
        self.nodes.clear();
        self.new.clear();
        self.names.clear();
        self.orphans.clear();
        self.seen.clear();
        self.base = false;
        self.quota = false;
    }
}
