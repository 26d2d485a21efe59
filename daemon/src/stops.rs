//! Exports and applies under way, which end when nobody waits for them any more.

use std::collections::HashMap;
use std::sync::Mutex;

use agentfs_core::id::SessionId;

use super::services::lock;
use agentfs_export::CancelToken;

/// What ends the export that a session waits for. A session waits for one at a time.
#[derive(Debug, Default)]
pub(crate) struct Stops(Mutex<HashMap<SessionId, CancelToken>>);

impl Stops {
    /// An export begins.
    pub(crate) fn begin(&self, session: SessionId, stop: &CancelToken) {
        lock(&self.0).insert(session, stop.clone());
    }

    /// The session waits for nothing any more.
    pub(crate) fn end(&self, session: SessionId) {
        if let Some(stop) = lock(&self.0).remove(&session) {
            stop.cancel();
        }
    }

    /// Nobody waits for anything any more.
    pub(crate) fn end_all(&self) {
        lock(&self.0).drain().for_each(|(_, stop)| stop.cancel());
    }
}
