//! Branch and snapshot requests.

use std::sync::atomic::AtomicBool;

use agentfs_core::id::{BranchId, SnapshotId};
use agentfs_core::{Caller, FreezeError, Freezing, FsCore, Globs};
use agentfs_proto::message::{
    BranchCreate, BranchCreated, BranchInfo, BranchList, Branches, Code, SnapshotCreate,
    SnapshotCreated, SnapshotInfo, SnapshotList, Snapshots,
};

use crate::base::refusal::Refusal;
use crate::shared::branches::{Origins, branch_named, is_base, snapshot_named};
use crate::shared::holds::Holds;

/// Branches or snapshots on one page.
const PER_PAGE: usize = 128;

/// Refuses names that are hard to read in command lines and texts.
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

/// Refuses the name of a branch that there is.
fn check_new(core: &FsCore, name: &str) -> Result<(), Refusal> {
    check_name(name)?;
    match branch_named(core, name) {
        Ok(_) => Err(exists(name)),
        Err(_) => Ok(()),
    }
}

fn exists(name: &str) -> Refusal {
    let text = format!("there is a branch {name} already; choose another name");
    Refusal::new(Code::EXISTS, text)
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
    check_new(core, name)?;
    let (id, parent) = if !request.from_snapshot.is_empty() {
        let snapshot = snapshot_named(core, &request.from_snapshot)?;
        (
            core.branch_create_from_snapshot(caller, snapshot, name)?,
            snapshot.0,
        )
    } else {
        let from = source(core, request, own)?;
        (core.branch_create_from_current(caller, from, name)?, from.0)
    };
    remember(core, origins, id, parent)?;
    limit(core, id, request)?;
    Ok(BranchCreated { id: id.0 })
}

/// Returns the branch that a new one starts from.
fn source(core: &FsCore, request: &BranchCreate, own: BranchId) -> Result<BranchId, Refusal> {
    match request.from_branch.as_str() {
        "" => Ok(own),
        from => branch_named(core, from),
    }
}

/// Returns the patterns of a request.
fn globs(patterns: &[String]) -> Result<Globs, Refusal> {
    Globs::new(patterns).map_err(|error| Refusal::invalid(error.to_string()))
}

/// Makes a frozen branch from a branch as it is. This reads all of the directory below.
pub(crate) fn create_frozen(
    core: &FsCore,
    origins: &Origins,
    caller: &Caller,
    (request, own): (&BranchCreate, BranchId),
    cancelled: &AtomicBool,
) -> Result<BranchCreated, Refusal> {
    let name = &request.name;
    check_new(core, name)?;
    let from = source(core, request, own)?;
    let freezing = Freezing {
        cancelled,
        exclude: &globs(&request.exclude)?,
    };
    let made = core.branch_create_frozen(caller, from, name, freezing);
    let id = made.map_err(|error| not_frozen(&error))?;
    if core.branch_named(name) != Some(id) {
        // Another request has made one of the name meanwhile.
        core.branch_delete(id)?;
        return Err(exists(name));
    }
    remember(core, origins, id, from.0)?;
    limit(core, id, request)?;
    Ok(BranchCreated { id: id.0 })
}

/// Gives a new branch its quota.
fn limit(core: &FsCore, id: BranchId, request: &BranchCreate) -> Result<(), Refusal> {
    match request.max_size {
        0 => Ok(()),
        most => core.limit_branch(id, Some(most)).map_err(Refusal::from),
    }
}

/// Records what a new branch was made from, or deletes it: a branch that cannot be compared with what it was
/// made from cannot be applied.
fn remember(core: &FsCore, origins: &Origins, id: BranchId, from: u64) -> Result<(), Refusal> {
    origins.remember(core, id, from).or_else(|errno| {
        core.branch_delete(id)?;
        Err(errno.into())
    })
}

fn not_frozen(error: &FreezeError) -> Refusal {
    match error {
        FreezeError::Store(errno) => {
            let mut refusal = Refusal::from(*errno);
            refusal.0.message = error.to_string();
            refusal
        }
        FreezeError::Unread(_) => {
            let text = format!("{error}; --exclude GLOB leaves something out");
            Refusal::new(Code::RESOURCES, text)
        }
        FreezeError::Cancelled => Refusal::new(Code::RESOURCES, error.to_string()),
    }
}

/// Returns one page of the branches, or of the only one that a session may see.
pub(crate) fn list(
    core: &FsCore,
    origins: &Origins,
    holds: &Holds,
    request: &BranchList,
    only: Option<BranchId>,
) -> Branches {
    let mut rest = match only {
        // The sessions of one branch see no other.
        Some(only) => core.branches_after(BranchId(only.0 - 1), 1),
        None => core.branches_after(BranchId(request.after), PER_PAGE + 1),
    };
    rest.retain(|branch| branch.id.0 > request.after && only.is_none_or(|it| it == branch.id));
    let more = rest.len() > PER_PAGE;
    let branches = rest.into_iter().take(PER_PAGE).map(|branch| {
        let (parent, created_ns) = origins.of(branch.id);
        let found = core.branch(branch.id);
        let seq = found.as_ref().map_or(0, |it| it.last_seq().0);
        BranchInfo {
            id: branch.id.0,
            seq,
            name: branch.name,
            parent,
            created_ns,
            run: holds.pid_of(branch.id).unwrap_or(0),
            frozen: found.is_ok_and(|it| it.is_frozen()),
        }
    });
    let branches = branches.collect();
    Branches { branches, more }
}

pub(crate) fn snapshot(
    core: &FsCore,
    caller: &Caller,
    branch: BranchId,
    request: &SnapshotCreate,
    cancelled: &AtomicBool,
) -> Result<SnapshotCreated, Refusal> {
    let name = &request.name;
    check_name(name)?;
    let exists = || {
        let text = format!("there is a snapshot {name} already; choose another name");
        Refusal::new(Code::EXISTS, text)
    };
    if core.snapshot_named(name).is_some() {
        return Err(exists());
    }
    let id = if request.full {
        let freezing = Freezing {
            cancelled,
            exclude: &globs(&request.exclude)?,
        };
        let made = core.snapshot_create_full(caller, branch, name, freezing);
        let id = made.map_err(|error| not_frozen(&error))?;
        if core.snapshot_named(name) != Some(id) {
            // Another request has made one of the name meanwhile.
            core.snapshot_delete(id)?;
            return Err(exists());
        }
        id
    } else {
        core.snapshot_create(caller, branch, name)?
    };
    Ok(SnapshotCreated { id: id.0 })
}

/// Returns one page of the snapshots, or of those of the only branch that a session may see.
pub(crate) fn snapshots(
    core: &FsCore,
    request: &SnapshotList,
    only: Option<BranchId>,
) -> Snapshots {
    let (mut rest, mut after) = (Vec::new(), SnapshotId(request.after));
    // A session that sees those of one branch looks through the others part by part.
    while rest.len() <= PER_PAGE {
        let part = core.snapshots_after(after, PER_PAGE + 1);
        let Some(last) = part.last() else { break };
        after = last.id;
        let is_shown = |it: &agentfs_core::SnapshotInfo| {
            !is_base(it) && only.is_none_or(|only| only == it.branch)
        };
        rest.extend(part.into_iter().filter(is_shown));
    }
    let more = rest.len() > PER_PAGE;
    let snapshots = rest
        .into_iter()
        .take(PER_PAGE)
        .map(|snapshot| SnapshotInfo {
            id: snapshot.id.0,
            created_ns: snapshot
                .made
                .and_then(|made| u64::try_from(made).ok())
                .unwrap_or(0),
            name: snapshot.name,
            branch: snapshot.branch.0,
        });
    let snapshots = snapshots.collect();
    Snapshots { snapshots, more }
}
