//! Branch and snapshot requests.

use agentfs_core::id::BranchId;
use agentfs_core::{Caller, FsCore};
use agentfs_proto::message::{
    BranchInfo, BranchList, Branches, Code, Request, SnapshotList, Snapshots, TokenMade,
};

use super::answer::Answer;
use super::refusal::Refusal;
use super::services::Services;

/// The branch of this name.
pub(crate) fn branch_named(core: &FsCore, name: &str) -> Result<BranchId, Refusal> {
    let main = core.branch(FsCore::MAIN)?;
    if main.name() == name {
        return Ok(main.id());
    }
    Err(Refusal::not_found(format!(
        "there is no branch {name}; make it with: agentfs branch create {name}"
    )))
}

/// Carries out a request that changes branches or snapshots.
pub(crate) fn change(
    core: &FsCore,
    _: &Caller,
    own: BranchId,
    services: &Services,
    request: &Request,
) -> Result<Answer, Refusal> {
    if let Request::BranchToken(it) = request {
        let branch = if it.name.is_empty() {
            own
        } else {
            branch_named(core, &it.name)?
        };
        let token = services.make_token(branch).map_err(|error| {
            Refusal::new(Code::RESOURCES, format!("no random numbers: {error}"))
        })?;
        return Ok(TokenMade { token }.into());
    }
    Err(Refusal::unsupported(format!(
        "this daemon does not serve {}",
        request.name()
    )))
}

pub(crate) fn list(core: &FsCore, request: &BranchList) -> Branches {
    let main = core
        .branch(FsCore::MAIN)
        .ok()
        .filter(|main| main.id().0 > request.after);
    let branches = main.map(|main| BranchInfo {
        id: main.id().0,
        name: main.name().to_owned(),
        parent: 0,
        seq: main.last_seq().0,
        created_ns: 0,
    });
    Branches {
        branches: branches.into_iter().collect(),
        more: false,
    }
}

pub(crate) fn snapshots(_: &FsCore, _: &SnapshotList) -> Snapshots {
    Snapshots {
        snapshots: Vec::new(),
        more: false,
    }
}
