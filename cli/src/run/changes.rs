//! Lists what a branch changed.

use agentfs_client::CallError;
use agentfs_proto::message::{BranchDiff, Code, DiffEntry, PageNext};

use crate::output::failure::Failure;
use crate::project::connection::DaemonConnection;

/// Returns what a branch changed. A branch that is gone has no changes.
pub(super) fn changes_of(
    connection: &mut DaemonConnection,
    branch: &str,
) -> Result<Vec<DiffEntry>, Failure> {
    let request = BranchDiff {
        name: branch.to_owned(),
        against: String::new(),
    };
    let mut page = match connection.call(request) {
        Err(CallError::Refused(error)) if error.code == Code::NOT_FOUND => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = page.entries;
    while page.next != 0 {
        page = connection.call(PageNext { page: page.next })?;
        all.append(&mut page.entries);
    }
    Ok(all)
}
