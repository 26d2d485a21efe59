//! The branches of runs: each belongs to its run from before its mount exists until its changes are
//! settled.

use std::collections::HashMap;

use agentfs_core::id::{BranchId, SessionId};
use parking_lot::Mutex;

/// The session and the process of the run that has a branch.
#[derive(Clone, Copy, Debug)]
struct Holder {
    session: SessionId,
    pid: u32,
}

/// The branches that runs have.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<HashMap<BranchId, Holder>>);

impl Holds {
    /// Reserves a branch for a session.
    ///
    /// # Errors
    ///
    /// The process of the run that has the branch, if that is another session.
    pub(crate) fn take(&self, branch: BranchId, session: SessionId, pid: u32) -> Result<(), u32> {
        let mut all = self.0.lock();
        let holder = all.entry(branch).or_insert(Holder { session, pid });
        if holder.session == session {
            Ok(())
        } else {
            Err(holder.pid)
        }
    }

    /// Returns the process of the run that has a branch.
    pub(crate) fn pid_of(&self, branch: BranchId) -> Option<u32> {
        self.0.lock().get(&branch).map(|holder| holder.pid)
    }

    /// Releases the branch of a session that has settled its changes.
    pub(crate) fn release(&self, branch: BranchId, session: SessionId) {
        self.0
            .lock()
            .retain(|of, holder| *of != branch || holder.session != session);
    }

    /// Forgets a branch that is gone.
    pub(crate) fn forget(&self, branch: BranchId) {
        self.0.lock().remove(&branch);
    }

    /// Releases the branches of a session that has ended. Returns whether it had one.
    pub(crate) fn end(&self, session: SessionId) -> bool {
        let mut all = self.0.lock();
        let before = all.len();
        all.retain(|_, holder| holder.session != session);
        all.len() < before
    }
}
