//! A session after its handshake: what it may ask, and what it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use agentfs_core::id::{BranchId, SessionId};
use agentfs_proto::message::{Code, Done, Request, SessionStatus};

use super::answer::Answer;
use super::peer::Peer;
use super::refusal::Refusal;
use super::services::Services;

/// What a session has.
#[derive(Debug)]
pub(crate) struct OpenSession {
    public: Arc<PublicSession>,
}

/// What others may see of a session.
#[derive(Debug)]
pub(crate) struct PublicSession {
    id: SessionId,
    peer: Peer,
    program: String,
    branch: BranchId,
    bound: bool,
    requests: AtomicU64,
    handles: AtomicU32,
}

impl PublicSession {
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// Whether a token binds it to its branch.
    pub(crate) fn is_bound(&self) -> bool {
        self.bound
    }

    pub(crate) fn status(&self) -> SessionStatus {
        SessionStatus {
            session: self.id.0,
            pid: self.peer.pid,
            program: self.program.clone(),
            branch: self.branch.0,
            bound: self.bound,
            handles: self.handles.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            queues: Vec::new(),
        }
    }
}

impl OpenSession {
    pub(crate) fn new(
        id: SessionId,
        peer: Peer,
        mut program: String,
        branch: BranchId,
        bound: bool,
    ) -> Self {
        // It is shown to people: a name, not a text.
        program.truncate(program.floor_char_boundary(64));
        let public = PublicSession {
            id,
            peer,
            program,
            branch,
            bound,
            requests: AtomicU64::new(1),
            handles: AtomicU32::new(0),
        };
        Self {
            public: Arc::new(public),
        }
    }

    pub(crate) fn public(&self) -> (SessionId, Arc<PublicSession>) {
        (self.public.id, Arc::clone(&self.public))
    }

    /// Carries out a request.
    pub(crate) fn answer(
        &mut self,
        request: Request,
        services: &Services,
    ) -> Result<Answer, Refusal> {
        self.public.requests.fetch_add(1, Ordering::Relaxed);
        let name = request.name();
        match request {
            Request::Ping(ping) => Ok(Done { value: ping.nonce }.into()),
            Request::Status(status) => Ok(services.report(&status, &self.public).into()),
            Request::Shutdown(shutdown) => {
                self.require_owner("end the daemon")?;
                tracing::info!(session = %self.public.id, reason = shutdown.reason, "asked to end");
                services.ask_stop();
                Ok(Answer::done())
            }
            // Matched by name, so that a new request is not forgotten here.
            Request::Hello(_)
            | Request::QueueOpen(_)
            | Request::QueueClose(_)
            | Request::WatchRegisterKqueue(_)
            | Request::WatchRegisterInotify(_)
            | Request::WatchRegisterFSEvents(_)
            | Request::WatchRegisterTree(_)
            | Request::WatchBatch(_)
            | Request::WatchUnregister(_)
            | Request::WatchDoorbell(_)
            | Request::UpdateDoorbellIdent(_)
            | Request::EventsSubscribe(_)
            | Request::EventsUnsubscribe(_)
            | Request::RequestChannelOpen(_)
            | Request::Fs(_)
            | Request::BranchCreate(_)
            | Request::BranchList(_)
            | Request::BranchDelete(_)
            | Request::BranchDiff(_)
            | Request::BranchApply(_)
            | Request::PageNext(_)
            | Request::BranchToken(_)
            | Request::SnapshotCreate(_)
            | Request::SnapshotList(_)
            | Request::SnapshotRestore(_)
            | Request::SnapshotDelete(_)
            | Request::MountList(_) => Err(Refusal::unsupported(format!(
                "this daemon does not serve {name}"
            ))),
        }
    }

    /// Refuses what only a session without a token may do.
    fn require_owner(&self, what: &str) -> Result<(), Refusal> {
        if self.public.bound {
            let text = format!("a session that is bound to a branch by a token may not {what}");
            return Err(Refusal::new(Code::FORBIDDEN, text));
        }
        Ok(())
    }

    /// Gives back everything.
    pub(crate) fn end(self, services: &Services) {
        services.sessions().remove(&self.public.id);
    }
}
