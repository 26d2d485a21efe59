//! Without mounts the kernel has nothing to tell.

use std::sync::Arc;

use agentfs_core::event::Envelope;
use agentfs_core::id::{BranchId, MountId};

use crate::base::public_session::Sessions;
use agentfs_engine::service::WatchService;

/// Nobody to tell.
#[derive(Debug)]
pub(crate) struct Echoing;

impl Echoing {
    pub(crate) fn told_on(&self, _: &Envelope) -> Vec<MountId> {
        Vec::new()
    }

    pub(crate) fn serve(&self, _: &Arc<WatchService>, _: &Arc<Sessions>) {}

    pub(crate) fn wants_activity(&self, _: BranchId) -> bool {
        false
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        (0, 0)
    }
}
