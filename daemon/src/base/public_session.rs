//! What others may see of a session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use agentfs_core::id::{BranchId, SessionId};
use agentfs_proto::message::{QueueStatus, SessionStatus};
use parking_lot::{Mutex, MutexGuard};

use crate::base::queues::Queues;

/// The open sessions.
pub(crate) type Sessions = Mutex<BTreeMap<SessionId, Arc<PublicSession>>>;

/// What others may see of a session.
#[derive(Debug)]
pub(crate) struct PublicSession {
    id: SessionId,
    pid: u32,
    program: String,
    branch: BranchId,
    bound: bool,
    requests: AtomicU64,
    handles: AtomicU32,
    queues: Mutex<Queues>,
}

impl PublicSession {
    /// Describes a session that has made its first request.
    pub(crate) fn new(
        id: SessionId,
        pid: u32,
        program: String,
        branch: BranchId,
        bound: bool,
    ) -> Self {
        Self {
            id,
            pid,
            program,
            branch,
            bound,
            requests: AtomicU64::new(1),
            handles: AtomicU32::new(0),
            queues: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// Returns the process, or 0 where the kernel does not say which it is.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the branch whose events the session gets.
    pub(crate) fn branch(&self) -> BranchId {
        self.branch
    }

    /// Returns whether a token binds the session to its branch.
    pub(crate) fn is_bound(&self) -> bool {
        self.bound
    }

    /// Counts a request.
    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Records how many files the session has open.
    pub(crate) fn set_handles(&self, open: usize) {
        let open = u32::try_from(open).unwrap_or(u32::MAX);
        self.handles.store(open, Ordering::Relaxed);
    }

    /// Locks the queues of the session.
    pub(crate) fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock()
    }

    /// Returns what the status shows of the session.
    pub(crate) fn status(&self) -> SessionStatus {
        let queues: Vec<QueueStatus> = self.queues.lock().status();
        SessionStatus {
            session: self.id.0,
            pid: self.pid,
            program: self.program.clone(),
            branch: self.branch.0,
            bound: self.bound,
            handles: self.handles.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            queues,
        }
    }
}
