//! The directory below the branches, and whether it is still at its path.

use agentfs_core::{FsCore, LowerPlace, Place};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{Code, ProjectInfo, ProjectPlace};

use crate::base::refusal::Refusal;

/// Returns what the daemon reports of the directory. Every command asks this first, so what an apply
/// that was killed has left behind is taken back here.
pub(crate) fn info(core: &FsCore) -> ProjectInfo {
    if let Err(errno) = core.recover_lower() {
        tracing::warn!(%errno, "an interrupted apply cannot be taken back now");
    }
    let Some(LowerPlace {
        path,
        device,
        inode,
        place,
    }) = core.lower_place()
    else {
        return ProjectInfo {
            lower: Bytes::default(),
            device: 0,
            inode: 0,
            place: ProjectPlace::Nowhere,
            now_at: Bytes::default(),
        };
    };
    let (place, now_at) = match place {
        Place::InPlace => (ProjectPlace::InPlace, None),
        Place::Elsewhere(now_at) => (ProjectPlace::Elsewhere, now_at),
        Place::Deleted => (ProjectPlace::Deleted, None),
    };
    ProjectInfo {
        lower: path.as_path().into(),
        device,
        inode,
        place,
        now_at: now_at.as_deref().map(Bytes::from).unwrap_or_default(),
    }
}

/// Returns the present path of the directory, which an export names. For a directory that has none,
/// returns a path at which nothing can be, so that the export does not name another directory.
pub(crate) fn path_for_export(core: &FsCore, lower: &Bytes) -> Bytes {
    let ProjectInfo { place, now_at, .. } = info(core);
    match place {
        ProjectPlace::InPlace | ProjectPlace::Nowhere => lower.clone(),
        ProjectPlace::Elsewhere if !now_at.is_empty() => now_at,
        ProjectPlace::Elsewhere | ProjectPlace::Deleted => {
            let mut path = lower.clone();
            path.0.extend_from_slice(b" (deleted)");
            path
        }
    }
}

/// Refuses to write to a directory that is not at its path any more: the request means the one that
/// is there now.
pub(crate) fn require_in_place(core: &FsCore, branch: &str) -> Result<(), Refusal> {
    let ProjectInfo {
        lower,
        place,
        now_at,
        ..
    } = info(core);
    let what = match place {
        ProjectPlace::InPlace | ProjectPlace::Nowhere => return Ok(()),
        ProjectPlace::Deleted => "was deleted".to_owned(),
        ProjectPlace::Elsewhere if now_at.is_empty() => "is not there any more".to_owned(),
        ProjectPlace::Elsewhere => format!("is at {now_at} now"),
    };
    let text = format!(
        "the directory that was at {lower} {what}, so nothing is applied; the changes stay in the \
         branch {branch}, and are exported with: agentfs branch export {branch}"
    );
    Err(Refusal::new(Code::CONFLICT, text))
}
