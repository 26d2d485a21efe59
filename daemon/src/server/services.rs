//! What all sessions share.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use agentfs_core::id::{BranchId, SessionId};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{Code, Counter, Hello, SessionStatus, Status, StatusReport, Token};

use super::counters::Counters;
use super::daemon::{Config, StartError};
use super::limits::Limits;
use super::open_session::PublicSession;
use super::refusal::Refusal;

/// Sessions on one page of a status report.
const SESSIONS_PER_PAGE: usize = 32;

/// Shared by the sessions and the sinks.
pub(crate) struct Services {
    limits: Limits,
    counters: Counters,
    tokens: Mutex<HashMap<Token, BranchId>>,
    sessions: Mutex<BTreeMap<SessionId, Arc<PublicSession>>>,
    lower: Bytes,
    started: Instant,
    stop_wanted: AtomicBool,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Services {
    pub(crate) fn new(config: &Config) -> Result<Self, StartError> {
        let lower = config.lower.as_deref().map(std::path::absolute).transpose();
        let lower = lower.map_err(StartError::Io)?;
        Ok(Self {
            limits: config.limits,
            counters: Counters::default(),
            tokens: Mutex::default(),
            sessions: Mutex::default(),
            lower: lower.as_deref().map(Bytes::from).unwrap_or_default(),
            started: Instant::now(),
            stop_wanted: AtomicBool::new(false),
        })
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The open sessions, for the status.
    pub(crate) fn sessions(&self) -> MutexGuard<'_, BTreeMap<SessionId, Arc<PublicSession>>> {
        lock(&self.sessions)
    }

    /// Asks the event loop to end after this turn.
    pub(crate) fn ask_stop(&self) {
        self.stop_wanted.store(true, Ordering::Release);
    }

    pub(crate) fn wants_stop(&self) -> bool {
        self.stop_wanted.load(Ordering::Acquire)
    }

    pub(crate) fn counters_name(&self) -> String {
        String::new()
    }

    /// The branch that a greeting asks for.
    pub(crate) fn branch_of_session(&self, hello: &Hello) -> Result<(BranchId, String), Refusal> {
        match &hello.token {
            Some(token) if !lock(&self.tokens).contains_key(token) => Err(Refusal::new(
                Code::FORBIDDEN,
                "the token is not known to this daemon; make one with: agentfs branch token NAME",
            )),
            _ => Ok((BranchId(1), "main".to_owned())),
        }
    }

    /// One page of the status. A bound session sees itself.
    pub(crate) fn report(&self, request: &Status, of: &PublicSession) -> StatusReport {
        let sessions = self.sessions();
        let mut after = sessions
            .range(SessionId(request.after.saturating_add(1))..)
            .filter(|(id, _)| !of.is_bound() || **id == of.id());
        let page: Vec<SessionStatus> = after
            .by_ref()
            .take(SESSIONS_PER_PAGE)
            .map(|(_, it)| it.status())
            .collect();
        let more = after.next().is_some();
        let counters = self.counters.values();
        StatusReport {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lower: self.lower.clone(),
            uptime_s: self.started.elapsed().as_secs(),
            counters: counters
                .into_iter()
                .map(|(name, value)| Counter {
                    name: name.to_owned(),
                    value,
                })
                .collect(),
            sessions: page,
            more,
        }
    }
}

/// A panic while the lock was held leaves data that is valid by itself.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
