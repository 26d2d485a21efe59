//! Branches and snapshots: by their names, where they come from, and how a branch is deleted.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use agentfs_core::id::{BranchId, SnapshotId};
use agentfs_core::{Errno, Frozen, FsCore, Result};
use agentfs_proto::message::Code;
use parking_lot::Mutex;

use crate::base::refusal::Refusal;
use crate::mounts::table::MountTable;

/// Where branches and snapshots come from, which the filesystem does not keep.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    branches: Mutex<HashMap<BranchId, Origin>>,
    snapshots: Mutex<HashMap<SnapshotId, u64>>,
}

#[derive(Clone, Debug)]
struct Origin {
    /// The branch it was made from, or the snapshot.
    parent: u64,
    created_ns: u64,
    /// The branch as it was when it was made.
    base: Frozen,
}

impl Origins {
    /// Keeps where a branch starts. To be called when it is new.
    pub(crate) fn remember(&self, core: &FsCore, branch: BranchId, parent: u64) -> Result<()> {
        let base = core.branch(branch)?.freeze();
        self.branches.lock().insert(
            branch,
            Origin {
                parent,
                created_ns: now(),
                base,
            },
        );
        Ok(())
    }

    /// What the branch was when it was made.
    pub(crate) fn base(&self, branch: BranchId) -> Option<Frozen> {
        self.branches
            .lock()
            .get(&branch)
            .map(|origin| origin.base.clone())
    }

    /// Returns what a branch was made from and when, or zeros.
    pub(crate) fn of(&self, branch: BranchId) -> (u64, u64) {
        let branches = self.branches.lock();
        branches
            .get(&branch)
            .map_or((0, 0), |origin| (origin.parent, origin.created_ns))
    }
    fn forget(&self, branch: BranchId) {
        self.branches.lock().remove(&branch);
    }

    /// Records that a snapshot was made just now.
    pub(crate) fn remember_snapshot(&self, snapshot: SnapshotId) {
        self.snapshots.lock().insert(snapshot, now());
    }

    pub(crate) fn forget_snapshot(&self, snapshot: SnapshotId) {
        self.snapshots.lock().remove(&snapshot);
    }

    /// Returns when a snapshot was made, in nanoseconds since the epoch, or 0.
    pub(crate) fn snapshot_created(&self, snapshot: SnapshotId) -> u64 {
        self.snapshots.lock().get(&snapshot).copied().unwrap_or(0)
    }
}

fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The branch of this name.
pub(crate) fn branch_named(core: &FsCore, name: &str) -> Result<BranchId, Refusal> {
    let found = core
        .branches()
        .into_iter()
        .find(|branch| branch.name == name);
    found.map(|branch| branch.id).ok_or_else(|| {
        let text = format!("there is no branch {name}; make it with: agentfs branch create {name}");
        Refusal::not_found(text)
    })
}

/// The snapshot of this name or number.
pub(crate) fn snapshot_named(core: &FsCore, name: &str) -> Result<SnapshotId, Refusal> {
    let snapshots = core.snapshots();
    let number = name.parse().ok().map(SnapshotId);
    let found = snapshots
        .iter()
        .find(|snapshot| snapshot.name == name)
        .or_else(|| {
            snapshots
                .iter()
                .find(|snapshot| Some(snapshot.id) == number)
        });
    found.map(|snapshot| snapshot.id).ok_or_else(|| {
        Refusal::not_found(format!(
            "there is no snapshot {name}; see: agentfs snapshot list"
        ))
    })
}

/// Deletes a branch that no mount shows, nor begins to show meanwhile.
pub(crate) fn delete(
    core: &FsCore,
    origins: &Origins,
    mounts: &MountTable,
    branch: BranchId,
) -> Result<(), Refusal> {
    let deleted = mounts
        .unless_shown(branch, || core.branch_delete(branch))
        .unwrap_or(Err(Errno::EBUSY));
    deleted.map_err(|errno| {
        if errno == Errno::EBUSY {
            in_use()
        } else {
            errno.into()
        }
    })?;
    origins.forget(branch);
    Ok(())
}

fn in_use() -> Refusal {
    let text = "the branch is in use: it is main, is mounted, or has open files; unmount it and \
                close them first";
    Refusal::new(Code::BUSY, text)
}
