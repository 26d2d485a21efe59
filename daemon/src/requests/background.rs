//! Requests that may take long, and who waits for them.

use std::sync::Arc;

use agentfs_core::id::{BranchId, MountId};
use agentfs_proto::message::{
    BranchApply, BranchDelete, BranchDiff, Code, FsRequest, Request, SnapshotCreate,
    SnapshotDelete, SnapshotRestore,
};

use super::dispatch::{OpenSession, Work};
use crate::base::refusal::Refusal;
use crate::base::reply::Answer;
use crate::requests::{apply, branches};
use crate::shared::jobs::{Job, Size};
use crate::shared::services::Services;
use crate::shared::{differences, project};

pub(crate) fn job(
    size: Size,
    run: impl FnOnce() -> Result<Answer, Refusal> + Send + 'static,
) -> Result<Work, Refusal> {
    let (run, holds) = (Box::new(run), None);
    Ok(Work::Job(Job { run, size, holds }))
}

/// As [`job`], for a long one that keeps a branch as it is.
fn holding_job(
    branch: BranchId,
    run: impl FnOnce() -> Result<Answer, Refusal> + Send + 'static,
) -> Result<Work, Refusal> {
    let (run, size, holds) = (Box::new(run), Size::Long, Some(branch));
    Ok(Work::Job(Job { run, size, holds }))
}

/// Refuses to delete a branch in which somebody is at work.
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
    /// Whether a job keeps a branch as it is that this request would change. It is to wait then,
    /// so that the other sessions do not.
    pub(crate) fn must_wait(&self, request: &Request, services: &Services) -> bool {
        let held = services.jobs().held();
        if held.is_empty() {
            return false;
        }
        let (Request::Fs(FsRequest { branch: named, .. })
        | Request::SnapshotCreate(SnapshotCreate { branch: named, .. })) = request
        else {
            return false;
        };
        let named = if named.is_empty() {
            Some(self.public.branch)
        } else {
            branches::branch_named(services.core(), named).ok()
        };
        named.is_some_and(|branch| held.contains(&branch))
            || self.handles.branches().any(|branch| held.contains(&branch))
    }

    pub(crate) fn delete_branch(
        &self,
        it: &BranchDelete,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.require_owner("delete branches")?;
        let branch = branches::branch_named(services.core(), &it.name)?;
        let (core, origins) = (services.core().clone(), Arc::clone(services.origins()));
        let tokens = Arc::clone(services.tokens());
        require_idle(branch, it, services)?;
        services.holds().forget(branch);
        let mounts = services.mounts().clone();
        job(Size::Short, move || {
            branches::delete(&core, &origins, &mounts, branch)?;
            tokens.forget(branch);
            Ok(Answer::done())
        })
    }

    pub(crate) fn diff(&self, request: BranchDiff, services: &Services) -> Result<Work, Refusal> {
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

    pub(crate) fn apply(&self, request: BranchApply, services: &Services) -> Result<Work, Refusal> {
        self.require_owner("write to the directory below")?;
        let branch = self.branch(&request.name, services)?;
        // It ends with its session, and with the daemon.
        let (core, stop) = (services.core().clone(), self.stop(services));
        holding_job(branch.id(), move || {
            // When it has its turn: until then the directory may be moved.
            if !request.dry_run {
                project::require_in_place(&core, branch.name())?;
            }
            Ok(apply::apply(&branch, &request, stop.flag())?.into())
        })
    }

    pub(crate) fn restore(
        &self,
        request: &SnapshotRestore,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.require_owner("restore snapshots")?;
        let branch = self.branch(&request.branch, services)?.id();
        let snapshot = branches::snapshot_named(services.core(), &request.snapshot)?;
        let (core, caller) = (services.core().clone(), self.caller.clone());
        holding_job(branch, move || {
            core.restore(&caller, branch, snapshot)?;
            Ok(Answer::done())
        })
    }

    pub(crate) fn delete_snapshot(
        &self,
        it: &SnapshotDelete,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.require_owner("delete snapshots")?;
        let snapshot = branches::snapshot_named(services.core(), &it.snapshot)?;
        let (core, origins) = (services.core().clone(), Arc::clone(services.origins()));
        job(Size::Short, move || {
            branches::forget_snapshot(&core, &origins, snapshot)?;
            Ok(Answer::done())
        })
    }
}
