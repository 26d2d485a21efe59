//! What `agentfs run` asks for: a branch for a while, a mount elsewhere, and the changes at the end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::id::MountId;
use agentfs_proto::message::{
    BranchCreate, BranchExport, BranchRetire, Code, Done, MountServe, MountWait,
};

use super::super::branches;
use super::super::differences;
use super::super::jobs::Size;
use super::super::refusal::Refusal;
use super::super::services::Services;
use super::long::job;
use super::{OpenSession, Work, done, mount_info};
use crate::export::{self, ExportError};

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
        services.retired().add(&branch);
        services.tidy();
        done(Done { value: 0 })
    }

    pub(super) fn export(
        &self,
        request: BranchExport,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.require_owner("write to a directory of the host")?;
        let branch = self.branch(&request.name, services)?;
        let (core, origins) = (services.core().clone(), Arc::clone(services.origins()));
        let (lower, caller) = (services.lower().clone(), self.caller.clone());
        job(Size::Long, move || {
            let changes = differences::find(&core, &origins, branch.id(), "")?;
            let (project, directory) = (lower.as_path(), request.path.as_path());
            let written = export::write(&branch, &caller, &changes, project, directory);
            let failed = |error: ExportError| Refusal::new(Code::RESOURCES, error.to_string());
            Ok(written.map_err(failed)?.into())
        })
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
