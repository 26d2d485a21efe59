//! Exports and applies under way, which end when nobody waits for them any more.

use std::collections::HashMap;

use agentfs_core::id::SessionId;
use parking_lot::Mutex;

use agentfs_export::Stop;

/// What ends the export that a session waits for. A session waits for one at a time.
#[derive(Debug, Default)]
pub(crate) struct Stops(Mutex<HashMap<SessionId, Stop>>);

impl Stops {
    /// An export begins.
    pub(crate) fn begin(&self, session: SessionId, stop: &Stop) {
        self.0.lock().insert(session, stop.clone());
    }

    /// The session waits for nothing any more.
    pub(crate) fn end(&self, session: SessionId) {
        if let Some(stop) = self.0.lock().remove(&session) {
            stop.ask();
        }
    }

    /// Nobody waits for anything any more.
    pub(crate) fn end_all(&self) {
        self.0.lock().drain().for_each(|(_, stop)| stop.ask());
    }
}
