//! A session after its handshake: its rights, and what it has open.

use std::sync::Arc;

use agentfs_core::event::Origin;
use agentfs_core::id::{BranchId, SessionId};
use agentfs_core::{Branch, Caller};
use agentfs_proto::message::Code;
use parking_lot::Mutex;

use crate::base::public_session::PublicSession;
use crate::base::refusal::Refusal;
use crate::requests::files::{Handles, Listing};
use crate::requests::pages::Pages;
use crate::shared::branches::branch_named;
use crate::shared::services::Services;

/// A session after its handshake. The other files of this folder add the requests that it may make.
#[derive(Debug)]
pub(crate) struct OpenSession {
    pub(super) public: Arc<PublicSession>,
    pub(super) caller: Caller,
    pub(super) handles: Handles,
    pub(super) last_subscription: u64,
    pub(super) subscriptions: usize,
    pub(super) pages: Arc<Mutex<Pages>>,
    pub(super) listing: Arc<Mutex<Listing>>,
}

impl OpenSession {
    pub(crate) fn new(
        id: SessionId,
        pid: u32,
        caller: Caller,
        mut program: String,
        branch: BranchId,
        bound: bool,
    ) -> Self {
        // The name is shown to people, so its length is bounded.
        program.truncate(program.floor_char_boundary(64));
        let public = PublicSession::new(id, pid, program, branch, bound);
        Self {
            public: Arc::new(public),
            caller: caller.with_origin(Origin::Session(id)),
            handles: Handles::default(),
            last_subscription: 0,
            subscriptions: 0,
            pages: Arc::default(),
            listing: Arc::default(),
        }
    }

    pub(crate) fn public(&self) -> &Arc<PublicSession> {
        &self.public
    }

    /// Takes the broadcasts that wait for the session: frames that are encoded already.
    pub(crate) fn take_broadcasts(&self, services: &Services) -> Vec<Vec<u8>> {
        if self.subscriptions == 0 {
            return Vec::new();
        }
        services.broadcasts().take(self.public.id())
    }

    /// Returns the branch that a request names, if the session may use it.
    pub(super) fn branch(&self, name: &str, services: &Services) -> Result<Branch, Refusal> {
        let own = self.public.branch();
        if name.is_empty() {
            return Ok(services.core().branch(own)?);
        }
        let named = branch_named(services.core(), name)?;
        if named != own {
            self.require_owner("work in another branch")?;
        }
        Ok(services.core().branch(named)?)
    }

    /// Returns the branch that a bound session is confined to.
    pub(super) fn only(&self) -> Option<BranchId> {
        self.public.is_bound().then_some(self.public.branch())
    }

    /// Refuses what only a session without a token may do. `what` ends the sentence.
    pub(super) fn require_owner(&self, what: &str) -> Result<(), Refusal> {
        if self.public.is_bound() {
            let text = format!("a session that is bound to a branch by a token may not {what}");
            return Err(Refusal::new(Code::FORBIDDEN, text));
        }
        Ok(())
    }

    /// Ends the session: everything that it has is given back.
    pub(crate) fn end(mut self, services: &Services) {
        let id = self.public.id();
        services.stops().end(id);
        services.jobs().cancel(id);
        services.sessions().remove(&id);
        services.registrations().close(id);
        services.close_watches(id);
        for refill in self.public.queues().end() {
            services.refills().remove(refill);
        }
        services
            .broadcasts()
            .unsubscribe_all(self.public.branch(), id);
        if services.holds().end(id) {
            services.tidy();
        }
        let held = services.jobs().held();
        if self.handles.branches().any(|branch| held.contains(&branch)) {
            let Self {
                mut handles,
                caller,
                ..
            } = self;
            services.jobs().clear_up(move || handles.close_all(&caller));
        } else {
            self.handles.close_all(&self.caller);
        }
    }
}
