//! Applies a branch to the directory below it.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use agentfs_core::{Action, ApplyError, ApplyMode, Branch};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{Applied, ApplyStep, BranchApply, Code};
use agentfs_proto::ssz::Ssz;

use crate::base::refusal::Refusal;

/// Bytes of the steps, of the conflicts and of the kept paths that a reply lists.
const LISTED_BYTES: usize = 16 * 1024;

/// Applies a branch, or returns what that would do. With conflicts nothing is done, unless it is
/// forced. It ends early when it is `cancelled`.
pub(crate) fn apply(
    branch: &Branch,
    request: &BranchApply,
    cancelled: &AtomicBool,
) -> Result<Applied, Refusal> {
    let mode = match (request.dry_run, request.force) {
        (true, _) => ApplyMode::DryRun,
        (false, true) => ApplyMode::Force,
        (false, false) => ApplyMode::Refuse,
    };
    let (applied, is_complete) = match branch.apply_unless(mode, cancelled) {
        Ok(applied) => (applied, true),
        Err(ApplyError::Conflicts(conflicts)) => (conflicting(conflicts), false),
        Err(error) => return Err(refusal(&error)),
    };
    let paths = |paths: &[PathBuf]| first(paths.iter().map(|path| absolute(path)));
    Ok(Applied {
        step_count: applied.actions.len() as u64,
        steps: first(applied.actions.iter().map(step)),
        too_deep_count: applied.too_deep as u64,
        conflict_count: applied.conflicts.len() as u64,
        conflicts: paths(&applied.conflicts),
        is_complete,
        kept_count: applied.kept.len() as u64,
        kept: paths(&applied.kept),
    })
}

fn conflicting(conflicts: Vec<PathBuf>) -> agentfs_core::Applied {
    agentfs_core::Applied {
        conflicts,
        ..agentfs_core::Applied::default()
    }
}

fn refusal(error: &ApplyError) -> Refusal {
    match error {
        ApplyError::NoLower => Refusal::invalid(
            "there is no directory below the branches; start the daemon with: \
             agentfs daemon --lower DIR",
        ),
        ApplyError::Host { errno, .. } | ApplyError::Recovery(errno) | ApplyError::Diff(errno) => {
            let mut refusal = Refusal::from(*errno);
            refusal.0.message = error.to_string();
            refusal
        }
        ApplyError::Busy => Refusal::new(Code::BUSY, error.to_string()),
        ApplyError::Cancelled => Refusal::new(Code::RESOURCES, error.to_string()),
        ApplyError::TooDeep(_) => Refusal::invalid(error.to_string()),
        ApplyError::Conflicts(_) | ApplyError::InTheWay(_) => {
            Refusal::new(Code::CONFLICT, error.to_string())
        }
    }
}

/// Returns as many as fit a frame.
fn first<T: Ssz>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut bytes = 0;
    all.take_while(|one| {
        bytes += one.ssz_len() + 4;
        bytes <= LISTED_BYTES
    })
    .collect()
}

/// Returns the path in the branch of one that is relative to the directory below.
fn absolute(path: &Path) -> Bytes {
    Path::new("/").join(path).as_path().into()
}

fn step(action: &Action) -> ApplyStep {
    let step = |action: &str, path: &Path, to: Bytes| ApplyStep {
        action: action.to_owned(),
        path: absolute(path),
        to,
    };
    let none = Bytes::default();
    match action {
        Action::Create(path, _) => step("create", path, none),
        Action::Write(path) => step("write", path, none),
        Action::SetAttributes(path) => step("attributes", path, none),
        Action::Rename(from, to) => step("rename", from, absolute(to)),
        Action::Remove(path, _) => step("remove", path, none),
    }
}
