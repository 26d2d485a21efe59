//! Exports and applies under way, which end early when their session does.

use std::collections::HashMap;

use agentfs_core::id::SessionId;
use parking_lot::Mutex;

use agentfs_export::CancelToken;

/// The stop of the export or apply that each session waits for. A session waits for one at a time.
#[derive(Debug, Default)]
pub(crate) struct Stops(Mutex<HashMap<SessionId, CancelToken>>);

impl Stops {
    /// Records what a session waits for from now on.
    pub(crate) fn begin(&self, session: SessionId, stop: &CancelToken) {
        self.0.lock().insert(session, stop.clone());
    }

    /// Stops what a session waits for.
    pub(crate) fn end(&self, session: SessionId) {
        if let Some(stop) = self.0.lock().remove(&session) {
            stop.cancel();
        }
    }

    /// Stops what any session waits for.
    pub(crate) fn end_all(&self) {
        self.0.lock().drain().for_each(|(_, stop)| stop.cancel());
    }
}
