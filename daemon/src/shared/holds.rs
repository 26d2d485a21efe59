//! Which branches runs have, from before their mounts are there until their changes are settled.

use std::collections::HashMap;
use std::sync::Mutex;

use agentfs_core::id::{BranchId, SessionId};

use crate::shared::services::lock;

/// The session and the process that have a branch.
#[derive(Clone, Copy, Debug)]
struct Holder {
    session: SessionId,
    pid: u32,
}

/// The branches that runs have.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<HashMap<BranchId, Holder>>);

impl Holds {
    /// Gives a branch to a session; when another one has it, returns the process of that one.
    pub(crate) fn take(&self, branch: BranchId, session: SessionId, pid: u32) -> Result<(), u32> {
        let mut all = lock(&self.0);
        let holder = all.entry(branch).or_insert(Holder { session, pid });
        if holder.session == session {
            Ok(())
        } else {
            Err(holder.pid)
        }
    }

    /// The process that has a branch.
    pub(crate) fn pid_of(&self, branch: BranchId) -> Option<u32> {
        lock(&self.0).get(&branch).map(|holder| holder.pid)
    }

    /// The session has settled what is in its branch.
    pub(crate) fn release(&self, branch: BranchId, session: SessionId) {
        lock(&self.0).retain(|of, holder| *of != branch || holder.session != session);
    }

    /// Forgets a branch that is gone.
    pub(crate) fn forget(&self, branch: BranchId) {
        lock(&self.0).remove(&branch);
    }

    /// The session has ended. Returns whether it had a branch.
    pub(crate) fn end(&self, session: SessionId) -> bool {
        let mut all = lock(&self.0);
        let before = all.len();
        all.retain(|_, holder| holder.session != session);
        all.len() < before
    }
}
