//! Without mounts the kernel has nothing to tell.

use agentfs_core::event::Envelope;
use agentfs_core::id::{BranchId, MountId};

/// Nobody to tell.
#[derive(Debug)]
pub(crate) struct Echoing;

impl Echoing {
    pub(crate) fn told_on(&self, _: &Envelope) -> Vec<MountId> {
        Vec::new()
    }

    pub(crate) fn wants_activity(&self, _: BranchId) -> bool {
        false
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        (0, 0)
    }
}
