//! Requests that may take long, each carried out by a thread of its own.

use std::sync::Arc;

use agentfs_core::id::{BranchId, MountId};
use agentfs_proto::message::{
    BranchApply, BranchDelete, BranchDiff, Code, SnapshotDelete, SnapshotRestore,
};

use crate::base::refusal::Refusal;
use crate::base::reply::ReplyWithFds;
use crate::requests::apply;
use crate::requests::open_session::OpenSession;
use crate::requests::work::{Work, holding_job, job};
use crate::shared::branches::{branch_named, delete, snapshot_named};
use crate::shared::jobs::Size;
use crate::shared::services::Services;
use crate::shared::{differences, project};

/// Refuses to delete a branch that a run or a mount has.
fn require_idle(branch: BranchId, it: &BranchDelete, services: &Services) -> Result<(), Refusal> {
    let name = &it.name;
    let run = services.holds().pid_of(branch);
    let mounts = services.mounts().after(MountId(0));
    let mount = mounts.iter().find(|(_, mount)| mount.branch == branch);
    let text = match (mount, run) {
        (Some(_), Some(pid)) => format!(
            "the branch {name} is at work in a run (process {pid}); wait for its end, or end it"
        ),
        (Some((_, mount)), None) => {
            let path = mount.path.display();
            format!(
                "the branch {name} is mounted on {path}: what works there has to end, and what \
                 `agentfs mount` mounted is taken away with `agentfs umount`"
            )
        }
        (None, Some(pid)) if !it.force => format!(
            "the branch {name} is of a run (process {pid}) that has not settled its changes yet; \
             wait for its end, or delete it all the same with --force"
        ),
        (None, _) => return Ok(()),
    };
    Err(Refusal::new(Code::BUSY, text))
}

impl OpenSession {
    pub(super) fn delete_branch(
        &self,
        it: &BranchDelete,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.require_owner("delete branches")?;
        let branch = branch_named(services.core(), &it.name)?;
        let (core, origins) = (services.core().clone(), Arc::clone(services.origins()));
        let tokens = Arc::clone(services.tokens());
        require_idle(branch, it, services)?;
        services.holds().forget(branch);
        let mounts = services.mounts().clone();
        job(Size::Short, move || {
            drop(delete(&core, &origins, &mounts, branch)?);
            tokens.forget(branch);
            Ok(ReplyWithFds::done())
        })
    }

    pub(super) fn diff(&self, request: BranchDiff, services: &Services) -> Result<Work, Refusal> {
        let branch = self.branch(&request.name, services)?.id();
        if !request.against.is_empty() {
            self.require_owner("compare with another branch or snapshot")?;
        }
        let (core, origins) = (services.core().clone(), Arc::clone(services.origins()));
        let pages = Arc::clone(&self.pages);
        job(Size::Long, move || {
            let entries = differences::find(&core, &origins, branch, &request.against)?;
            Ok(pages.lock().begin(entries).into())
        })
    }

    pub(super) fn apply(&self, request: BranchApply, services: &Services) -> Result<Work, Refusal> {
        self.require_owner("write to the directory below")?;
        let branch = self.branch(&request.name, services)?;
        // The apply ends with its session, and with the daemon.
        let (core, stop) = (services.core().clone(), self.stop(services));
        holding_job(branch.id(), move || {
            // This is looked at when the job has its turn: until then the directory may be moved.
            if !request.dry_run {
                project::require_in_place(&core, branch.name())?;
            }
            Ok(apply::apply(&branch, &request, stop.flag())?.into())
        })
    }

    pub(super) fn restore(
        &self,
        request: &SnapshotRestore,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.require_owner("restore snapshots")?;
        let branch = self.branch(&request.branch, services)?.id();
        let snapshot = snapshot_named(services.core(), &request.snapshot)?;
        let (core, caller) = (services.core().clone(), self.caller.clone());
        holding_job(branch, move || {
            core.restore(&caller, branch, snapshot)?;
            Ok(ReplyWithFds::done())
        })
    }

    pub(super) fn delete_snapshot(
        &self,
        it: &SnapshotDelete,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.require_owner("delete snapshots")?;
        let snapshot = snapshot_named(services.core(), &it.snapshot)?;
        let core = services.core().clone();
        job(Size::Short, move || {
            core.snapshot_delete(snapshot)?;
            Ok(ReplyWithFds::done())
        })
    }
}
