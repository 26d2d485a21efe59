//! Branches and snapshots: by name, with what they were made from, and the deletion of a branch.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use agentfs_core::id::{BranchId, SnapshotId};
use agentfs_core::{Branch, Errno, Frozen, FsCore, Result};
use agentfs_proto::message::Code;
use parking_lot::Mutex;

use crate::base::refusal::Refusal;
use crate::mounts::table::MountTable;

/// What branches and snapshots were made from and when, which the filesystem does not keep.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    branches: Mutex<HashMap<BranchId, Origin>>,
    snapshots: Mutex<HashMap<SnapshotId, u64>>,
}

#[derive(Clone, Debug)]
struct Origin {
    /// The branch or snapshot that it was made from.
    parent: u64,
    created_ns: u64,
    /// The branch as it was when it was made.
    base: Frozen,
}

impl Origins {
    /// Records what a new branch was made from, and its state.
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

    /// Returns the branch as it was when it was made.
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

    /// Forgets a branch. What it was made from may be large, so the caller frees it, without the lock.
    fn forget(&self, branch: BranchId) -> Option<Origin> {
        self.branches.lock().remove(&branch)
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

/// Finds a branch by its name.
pub(crate) fn branch_named(core: &FsCore, name: &str) -> Result<BranchId, Refusal> {
    core.branch_named(name).ok_or_else(|| {
        let text = format!("there is no branch {name}; make it with: agentfs branch create {name}");
        Refusal::not_found(text)
    })
}

/// Finds a snapshot by its name or number.
pub(crate) fn snapshot_named(core: &FsCore, name: &str) -> Result<SnapshotId, Refusal> {
    let by_number = || {
        let number = name.parse().ok().map(SnapshotId);
        number.filter(|number| core.has_snapshot(*number))
    };
    core.snapshot_named(name).or_else(by_number).ok_or_else(|| {
        Refusal::not_found(format!(
            "there is no snapshot {name}; see: agentfs snapshot list"
        ))
    })
}

/// A deleted branch, and what it was made from. To drop it takes time in proportion to what only the
/// branch had.
#[derive(Debug)]
#[must_use]
pub(crate) struct Remains {
    _branch: Branch,
    _origin: Option<Origin>,
}

/// Deletes a branch that no mount shows, nor can begin to show meanwhile.
pub(crate) fn delete(
    core: &FsCore,
    origins: &Origins,
    mounts: &MountTable,
    branch: BranchId,
) -> Result<Remains, Refusal> {
    let last = core.branch(branch)?;
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
    Ok(Remains {
        _branch: last,
        _origin: origins.forget(branch),
    })
}

fn in_use() -> Refusal {
    let text = "the branch is in use: it is main, is mounted, or has open files; unmount it and \
                close them first";
    Refusal::new(Code::BUSY, text)
}
