//! Exports and applies under way, which end when nobody waits for them any more.

use std::collections::HashMap;
use std::sync::Mutex;

use agentfs_core::id::SessionId;

use crate::shared::services::lock;
use agentfs_export::Stop;

/// What ends the export that a session waits for. A session waits for one at a time.
#[derive(Debug, Default)]
pub(crate) struct Stops(Mutex<HashMap<SessionId, Stop>>);

impl Stops {
    /// An export begins.
    pub(crate) fn begin(&self, session: SessionId, stop: &Stop) {
        lock(&self.0).insert(session, stop.clone());
    }

    /// The session waits for nothing any more.
    pub(crate) fn end(&self, session: SessionId) {
        if let Some(stop) = lock(&self.0).remove(&session) {
            stop.ask();
        }
    }

    /// Nobody waits for anything any more.
    pub(crate) fn end_all(&self) {
        lock(&self.0).drain().for_each(|(_, stop)| stop.ask());
    }
}
