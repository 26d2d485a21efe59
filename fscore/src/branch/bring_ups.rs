//! Which files of a branch have content brought up at the moment, so that each is copied once.

use rustc_hash::FxHashSet;

use crate::model::id::NodeId;
use crate::sync::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(crate) struct BringUps {
    nodes: Mutex<FxHashSet<NodeId>>,
    over: Condvar,
}

/// The right to bring one file up. The others that want it wait until this is dropped.
pub(super) struct Turn<'b> {
    bring_ups: &'b BringUps,
    node: NodeId,
}

impl BringUps {
    /// Waits until no other operation brings this file up. Returns whether none did: otherwise the
    /// file has to be looked at again.
    pub(super) fn begin(&self, node: NodeId) -> (Turn<'_>, bool) {
        let mut nodes = self.nodes.lock();
        let is_first = !nodes.contains(&node);
        self.over
            .wait_while(&mut nodes, |nodes| nodes.contains(&node));
        nodes.insert(node);
        let turn = Turn {
            bring_ups: self,
            node,
        };
        (turn, is_first)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.bring_ups.nodes.lock().remove(&self.node);
        self.bring_ups.over.notify_all();
    }
}
