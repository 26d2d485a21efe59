//! The status of the daemon and of its sessions.

use std::sync::Arc;

use agentfs_core::id::SessionId;
use agentfs_proto::message::{Counter, SessionStatus, Status, StatusReport};

use crate::base::public_session::PublicSession;
use crate::shared::services::Services;

/// Sessions on one page of a status report.
const SESSIONS_PER_PAGE: usize = 8;

/// Returns one page of the status. A bound session sees itself.
pub(crate) fn report(request: &Status, of: &PublicSession, services: &Services) -> StatusReport {
    let first = SessionId(request.after.saturating_add(1));
    let mut shown: Vec<Arc<PublicSession>> = services
        .sessions()
        .range(first..)
        .filter(|(id, _)| !of.is_bound() || **id == of.id())
        .map(|(_, it)| Arc::clone(it))
        .take(SESSIONS_PER_PAGE + 1)
        .collect();
    let more = shown.len() > SESSIONS_PER_PAGE;
    shown.truncate(SESSIONS_PER_PAGE);
    let status = |it: &Arc<PublicSession>| {
        // What it has registered and no event has made the daemon look for.
        services.registrations().look(it.id());
        it.status()
    };
    let sessions: Vec<SessionStatus> = shown.iter().map(status).collect();
    let counters = services.all_counters().into_iter();
    StatusReport {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lower: services.lower().clone(),
        uptime_s: services.started().elapsed().as_secs(),
        counters: counters
            .map(|(name, value)| Counter {
                name: name.to_owned(),
                value,
            })
            .collect(),
        sessions,
        more,
    }
}
