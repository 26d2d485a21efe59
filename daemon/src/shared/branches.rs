//! Branches and snapshots: by name, with what they were made from, and the deletion of a branch.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use agentfs_core::id::{BranchId, SnapshotId};
use agentfs_core::{BackstoreMode, Branch, Caller, Errno, Frozen, FsCore, Result, SnapshotInfo};
use agentfs_proto::message::Code;
use parking_lot::Mutex;

use crate::base::refusal::Refusal;
use crate::mounts::table::MountTable;

/// How the names of the snapshots begin that keep, in a store, what a branch was made from. No request
/// can name one, because a name that a user gives has no colon.
const BASE: &str = "base:";

/// What branches were made from and when, which the filesystem does not keep.
///
/// In a store, what a branch was made from is kept as a snapshot that is not listed, so that after a
/// restart a branch is compared with the same state as before.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    branches: Mutex<HashMap<BranchId, Origin>>,
}

#[derive(Clone, Debug)]
struct Origin {
    /// The branch or snapshot that it was made from.
    parent: u64,
    created_ns: u64,
    /// The branch as it was when it was made.
    base: Frozen,
    /// The snapshot that keeps the base in the store, if there is one.
    kept: Option<SnapshotId>,
}

/// Returns the name of the snapshot that keeps what a branch was made from.
fn base_name(branch: BranchId, parent: u64, created_ns: u64) -> String {
    format!("{BASE}{}:{parent}:{created_ns}", branch.0)
}

/// Returns the branch, its parent and its time out of the name of such a snapshot.
fn read_base_name(name: &str) -> Option<(BranchId, u64, u64)> {
    let mut numbers = name.strip_prefix(BASE)?.split(':').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((BranchId(next()?), next()?, next()?))
}

/// Returns whether a snapshot keeps what a branch was made from, and was not made by a user.
pub(crate) fn is_base(snapshot: &SnapshotInfo) -> bool {
    is_base_name(&snapshot.name)
}

/// Returns whether a snapshot of this name in a store keeps what a branch was made from, and was not made
/// by a user.
#[must_use]
pub fn is_base_name(name: &str) -> bool {
    name.starts_with(BASE)
}

impl Origins {
    /// Reads from the store what its branches were made from.
    pub(crate) fn recover(core: &FsCore) -> Result<Self> {
        let origins = Self::default();
        for snapshot in core.snapshots().iter().filter(|it| is_base(it)) {
            let Some((branch, parent, created_ns)) = read_base_name(&snapshot.name) else {
                continue;
            };
            if core.branch(branch).is_err() {
                // The daemon was killed between the two deletions.
                core.snapshot_delete(snapshot.id)?;
                continue;
            }
            let origin = Origin {
                parent,
                created_ns,
                base: core.frozen_in(snapshot.id, branch)?,
                kept: Some(snapshot.id),
            };
            origins.branches.lock().insert(branch, origin);
        }
        for branch in core.branches() {
            // Either the store is new, or the daemon was killed before it reported the branch as made.
            if origins.base(branch.id).is_none() {
                origins.remember(core, branch.id, 0)?;
            }
        }
        Ok(origins)
    }

    /// Records what a new branch was made from, and its state.
    pub(crate) fn remember(&self, core: &FsCore, branch: BranchId, parent: u64) -> Result<()> {
        let created_ns = now();
        let kept = match core.config().backstore {
            BackstoreMode::Memory => None,
            BackstoreMode::Disk(_) => {
                let name = base_name(branch, parent, created_ns);
                Some(core.snapshot_create(&Caller::root(), branch, &name)?)
            }
        };
        let base = core.branch(branch)?.freeze();
        self.branches.lock().insert(
            branch,
            Origin {
                parent,
                created_ns,
                base,
                kept,
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
        let number = SnapshotId(name.parse().ok()?);
        let before = SnapshotId(number.0.checked_sub(1)?);
        let found = core.snapshots_after(before, 1).pop()?;
        (found.id == number && !is_base(&found)).then_some(number)
    };
    let by_name = core.snapshot_named(name);
    by_name
        .filter(|_| !is_base_name(name))
        .or_else(by_number)
        .ok_or_else(|| {
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
    let origin = origins.forget(branch);
    if let Some(kept) = origin.as_ref().and_then(|it| it.kept)
        && let Err(errno) = core.snapshot_delete(kept)
    {
        // The next daemon deletes it.
        tracing::warn!(%errno, "what a deleted branch was made from stays in the store");
    }
    Ok(Remains {
        _branch: last,
        _origin: origin,
    })
}

fn in_use() -> Refusal {
    let text = "the branch is in use: it is main, is mounted, or has open files; unmount it and \
                close them first";
    Refusal::new(Code::BUSY, text)
}
