//! The requests of `agentfs run`: for a branch that it has for a while, and for its changes at the
//! end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use agentfs_core::id::Seq;
use agentfs_export::CancelToken;
use agentfs_proto::message::{
    BranchCreate, BranchExport, BranchHold, BranchRetire, Code, Done, Ending, Shutdown,
    SnapshotCreate,
};

use crate::base::refusal::Refusal;
use crate::base::wake::Wake;
use crate::requests::branches;
use crate::requests::open_session::OpenSession;
use crate::requests::work::{Work, done, job};
use crate::shared::exporter::SAVING;
use crate::shared::jobs::Size;
use crate::shared::services::Services;

impl OpenSession {
    pub(super) fn create_branch(
        &self,
        it: BranchCreate,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.require_owner("make branches")?;
        let own = self.public.branch();
        let is_frozen = it.frozen || services.is_frozen();
        if !is_frozen || !it.from_snapshot.is_empty() {
            let (core, origins) = (services.core(), services.origins());
            return done(branches::create(core, origins, &self.caller, &it, own)?);
        }
        let (core, origins) = (services.core().clone(), Arc::clone(services.origins()));
        let (caller, stop) = (self.caller.clone(), self.stop(services));
        job(Size::Long, move || {
            let request = (&it, own);
            let made = branches::create_frozen(&core, &origins, &caller, request, stop.flag())?;
            Ok(made.into())
        })
    }

    pub(super) fn create_snapshot(
        &self,
        it: SnapshotCreate,
        services: &Services,
    ) -> Result<Work, Refusal> {
        let branch = self.branch(&it.branch, services)?.id();
        if !it.full {
            let never = AtomicBool::new(false);
            let (core, caller) = (services.core(), &self.caller);
            return done(branches::snapshot(core, caller, branch, &it, &never)?);
        }
        self.require_owner("make full snapshots")?;
        let core = services.core().clone();
        let (caller, stop) = (self.caller.clone(), self.stop(services));
        job(Size::Long, move || {
            let made = branches::snapshot(&core, &caller, branch, &it, stop.flag())?;
            Ok(made.into())
        })
    }

    pub(super) fn retire(&self, it: &BranchRetire, services: &Services) -> Result<Work, Refusal> {
        self.require_owner("delete branches")?;
        let branch = self.branch(&it.name, services)?;
        services.pending_deletes().add(&branch, Seq(it.seq));
        services.holds().release(branch.id(), self.public.id());
        services.tidy();
        done(Done { value: 0 })
    }

    pub(super) fn hold(&self, it: &BranchHold, services: &Services) -> Result<Work, Refusal> {
        self.require_owner("keep branches")?;
        let branch = self.branch(&it.name, services)?;
        let (session, pid) = (self.public.id(), self.public.pid());
        let taken = services.holds().take(branch.id(), session, pid);
        taken.map_err(|pid| {
            let name = branch.name();
            let text = format!("the branch {name} is at work in a run (process {pid})");
            Refusal::new(Code::BUSY, text)
        })?;
        done(Done { value: 0 })
    }

    pub(super) fn export(
        &self,
        request: BranchExport,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.require_owner("write to a directory of the host")?;
        let branch = self.branch(&request.name, services)?;
        let (exporter, stop) = (services.exporter().clone(), self.stop(services));
        job(Size::Long, move || {
            let directory = request.path.as_path();
            Ok(exporter.export(&branch, directory, &stop)?.into())
        })
    }

    /// Ends the daemon, once the changes of its branches are exported or if they are not to be.
    pub(super) fn shut_down(&self, it: &Shutdown, services: &Services) -> Result<Work, Refusal> {
        self.require_owner("end the daemon")?;
        let session = self.public.id();
        tracing::info!(%session, reason = it.reason, discard = it.discard, "asked to end");
        let end = Arc::clone(services.end());
        let exporter = services.exporter().clone();
        let is_kept = services.core().store_usage().is_some();
        if it.discard && is_kept {
            let text = "the branches are kept in a store, which outlives the daemon, so none is thrown \
                        away; to end the daemon: agentfs shutdown; and to throw a branch away: agentfs \
                        branch delete NAME";
            return Err(Refusal::invalid(text.to_owned()));
        }
        if is_kept {
            // What the branches hold is in the store, and is there after a power cut too.
            services.core().sync()?;
        }
        if it.discard || !services.saves_changes() {
            end.settle();
            services.wakes().send(Wake::Stop);
            return done(Ending {
                lower: exporter.lower,
                saved_count: 0,
                saved: Vec::new(),
            });
        }
        let stop = CancelToken::after(SAVING);
        services.stops().begin(session, &stop);
        job(Size::End, move || {
            let ending = exporter.save_or_go_on(&stop).map_err(|error| {
                let text = format!("{error}; so the daemon goes on");
                Refusal::new(Code::RESOURCES, text)
            })?;
            // The event loop ends when it has the reply.
            end.settle();
            Ok(ending.into())
        })
    }

    /// Creates what ends an export or an apply when the session ends.
    pub(super) fn stop(&self, services: &Services) -> CancelToken {
        let stop = CancelToken::default();
        services.stops().begin(self.public.id(), &stop);
        stop
    }
}
