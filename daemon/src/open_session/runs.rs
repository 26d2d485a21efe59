//! What `agentfs run` asks for: a branch for a while, a mount elsewhere, and the changes at the end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::id::{MountId, Seq};
use agentfs_proto::message::{
    BranchCreate, BranchExport, BranchHold, BranchRetire, Code, Done, Ending, MountServe,
    MountWait, Shutdown,
};

use super::super::branches;
use super::super::exporter::SAVING;
use super::super::jobs::Size;
use super::super::refusal::Refusal;
use super::super::services::Services;
use super::long::job;
use super::{OpenSession, Work, done, mount_info};
use agentfs_export::CancelToken;

impl OpenSession {
    pub(super) fn create_branch(
        &self,
        it: &BranchCreate,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.require_owner("make branches")?;
        let (core, origins) = (services.core(), services.origins());
        let own = self.public.branch;
        done(branches::create(core, origins, &self.caller, it, own)?)
    }

    pub(super) fn retire(&self, it: &BranchRetire, services: &Services) -> Result<Work, Refusal> {
        self.require_owner("delete branches")?;
        let branch = self.branch(&it.name, services)?;
        services.retired().add(&branch, Seq(it.seq));
        services.holds().release(branch.id(), self.public.id);
        services.tidy();
        done(Done { value: 0 })
    }

    pub(super) fn hold(&self, it: &BranchHold, services: &Services) -> Result<Work, Refusal> {
        self.require_owner("keep branches")?;
        let branch = self.branch(&it.name, services)?;
        let (session, pid) = (self.public.id, self.public.peer.pid);
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

    /// Ends the daemon, when what its branches changed is exported or is not to be.
    pub(super) fn shut_down(&self, it: &Shutdown, services: &Services) -> Result<Work, Refusal> {
        self.require_owner("end the daemon")?;
        let session = self.public.id;
        tracing::info!(%session, reason = it.reason, discard = it.discard, "asked to end");
        let end = Arc::clone(services.end());
        let exporter = services.exporter().clone();
        if it.discard || !services.saves_changes() {
            end.settle();
            end.want();
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
            // The event loop ends when it has the answer.
            end.settle();
            Ok(ending.into())
        })
    }

    /// What ends an export or an apply when the session does.
    pub(super) fn stop(&self, services: &Services) -> CancelToken {
        let stop = CancelToken::default();
        services.stops().begin(self.public.id, &stop);
        stop
    }

    pub(super) fn serve_mount(
        &self,
        request: MountServe,
        device: Option<OwnedFd>,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.require_owner("mount")?;
        let branch = self.branch(&request.branch, services)?;
        let device = device.ok_or_else(|| Refusal::invalid("no descriptor came along"))?;
        let mounting = Arc::clone(services.mounting());
        job(Size::Short, move || {
            let (id, mount) = mounting.serve(branch.id(), device, &request)?;
            let name = branch.name().to_owned();
            Ok(mount_info(id, &mount, name).into())
        })
    }

    pub(super) fn wait_for_mount(
        request: &MountWait,
        services: &Services,
    ) -> Result<Work, Refusal> {
        let mounts = services.mounts().clone();
        let id = MountId(request.id);
        let at_most = Duration::from_millis(request.timeout_ms.into());
        job(Size::Wait, move || {
            let value = mounts.wait_gone(id, at_most).into();
            Ok(Done { value }.into())
        })
    }
}
