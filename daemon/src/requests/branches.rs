//! Branch and snapshot requests.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use agentfs_core::id::{BranchId, SnapshotId};
use agentfs_core::{Caller, Errno, Frozen, FsCore, Result};
use agentfs_proto::message::{
    BranchCreate, BranchCreated, BranchInfo, BranchList, Branches, Code, SnapshotCreate,
    SnapshotCreated, SnapshotInfo, SnapshotList, Snapshots,
};
use parking_lot::Mutex;

use crate::base::refusal::Refusal;
use crate::mounts::table::MountTable;
use crate::shared::holds::Holds;

/// Branches or snapshots on one page.
const PER_PAGE: usize = 128;

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

    fn of(&self, branch: BranchId) -> (u64, u64) {
        let branches = self.branches.lock();
        branches
            .get(&branch)
            .map_or((0, 0), |origin| (origin.parent, origin.created_ns))
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

/// Names appear in command lines and in texts.
fn check_name(name: &str) -> Result<(), Refusal> {
    let is_plain = |character: char| character.is_alphanumeric() || "-_.+@/".contains(character);
    if name.is_empty() || name.len() > 255 || name.starts_with('-') || !name.chars().all(is_plain) {
        return Err(Refusal::invalid(format!(
            "{name:?} is no name for a branch or snapshot: letters, digits and -_.+@/, at most 255 \
             bytes, no - in front"
        )));
    }
    Ok(())
}

/// Makes a branch from a snapshot, or from a branch as it is.
pub(crate) fn create(
    core: &FsCore,
    origins: &Origins,
    caller: &Caller,
    request: &BranchCreate,
    own: BranchId,
) -> Result<BranchCreated, Refusal> {
    let name = &request.name;
    check_name(name)?;
    if branch_named(core, name).is_ok() {
        let text = format!("there is a branch {name} already; choose another name");
        return Err(Refusal::new(Code::EXISTS, text));
    }
    let (id, parent) = if !request.from_snapshot.is_empty() {
        let snapshot = snapshot_named(core, &request.from_snapshot)?;
        (
            core.branch_create_from_snapshot(caller, snapshot, name)?,
            snapshot.0,
        )
    } else {
        let from = match request.from_branch.as_str() {
            "" => own,
            from => branch_named(core, from)?,
        };
        (core.branch_create_from_current(caller, from, name)?, from.0)
    };
    origins.remember(core, id, parent)?;
    Ok(BranchCreated { id: id.0 })
}

/// One page of the branches, or of the only one that a session may see.
pub(crate) fn list(
    core: &FsCore,
    origins: &Origins,
    holds: &Holds,
    request: &BranchList,
    only: Option<BranchId>,
) -> Branches {
    let mut rest = core
        .branches()
        .into_iter()
        .filter(|branch| branch.id.0 > request.after && only.is_none_or(|only| only == branch.id));
    let branches = rest.by_ref().take(PER_PAGE).map(|branch| {
        let (parent, created_ns) = origins.of(branch.id);
        let seq = core.branch(branch.id).map_or(0, |it| it.last_seq().0);
        BranchInfo {
            id: branch.id.0,
            seq,
            name: branch.name,
            parent,
            created_ns,
            run: holds.pid_of(branch.id).unwrap_or(0),
        }
    });
    let branches = branches.collect();
    Branches {
        branches,
        more: rest.next().is_some(),
    }
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
    origins.branches.lock().remove(&branch);
    Ok(())
}

fn in_use() -> Refusal {
    let text = "the branch is in use: it is main, is mounted, or has open files; unmount it and \
                close them first";
    Refusal::new(Code::BUSY, text)
}

pub(crate) fn snapshot(
    core: &FsCore,
    origins: &Origins,
    caller: &Caller,
    branch: BranchId,
    request: &SnapshotCreate,
) -> Result<SnapshotCreated, Refusal> {
    let name = &request.name;
    check_name(name)?;
    if core
        .snapshots()
        .iter()
        .any(|snapshot| snapshot.name == *name)
    {
        let text = format!("there is a snapshot {name} already; choose another name");
        return Err(Refusal::new(Code::EXISTS, text));
    }
    let id = core.snapshot_create(caller, branch, name)?;
    origins.snapshots.lock().insert(id, now());
    Ok(SnapshotCreated { id: id.0 })
}

pub(crate) fn forget_snapshot(
    core: &FsCore,
    origins: &Origins,
    snapshot: SnapshotId,
) -> Result<(), Refusal> {
    core.snapshot_delete(snapshot)?;
    origins.snapshots.lock().remove(&snapshot);
    Ok(())
}

/// One page of the snapshots, or of those of the only branch that a session may see.
pub(crate) fn snapshots(
    core: &FsCore,
    origins: &Origins,
    request: &SnapshotList,
    only: Option<BranchId>,
) -> Snapshots {
    let mut rest = core.snapshots().into_iter().filter(|snapshot| {
        snapshot.id.0 > request.after && only.is_none_or(|only| only == snapshot.branch)
    });
    let created = origins.snapshots.lock();
    let snapshots = rest.by_ref().take(PER_PAGE).map(|snapshot| SnapshotInfo {
        id: snapshot.id.0,
        created_ns: created.get(&snapshot.id).copied().unwrap_or(0),
        name: snapshot.name,
        branch: snapshot.branch.0,
    });
    let snapshots = snapshots.collect();
    Snapshots {
        snapshots,
        more: rest.next().is_some(),
    }
}
