//! The files that are open on a mount: when the connection ends, the kernel sends no request any
//! more that closes them.

use std::collections::HashSet;

use agentfs_core::event::Origin;
use agentfs_core::id::MountId;
use agentfs_core::{Branch, Caller, HandleId};
use parking_lot::Mutex;

#[derive(Debug, Default)]
pub(crate) struct OpenFiles(Mutex<HashSet<HandleId>>);

impl OpenFiles {
    pub(crate) fn add(&self, handle: HandleId) {
        self.0.lock().insert(handle);
    }

    pub(crate) fn remove(&self, handle: HandleId) {
        self.0.lock().remove(&handle);
    }

    /// Closes the files that are still open. Must be called when no more requests come.
    pub(crate) fn close_all(&self, branch: &Branch, mount: MountId) {
        let caller = Caller {
            origin: Origin::Mount(mount),
            ..Caller::root()
        };
        for handle in std::mem::take(&mut *self.0.lock()) {
            if let Err(error) = branch.close(&caller, handle) {
                tracing::debug!(%mount, %error, "a file that was open at the end of a mount is gone");
            }
        }
    }
}
