//! Where what a branch changed is exported to when nobody names a place.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use agentfs_client::Deadline;
use agentfs_proto::message::{BranchExport, Exported, ProjectInfo, ProjectPlace};

use super::Failure;
use super::output::time_text;
use super::session::Session;
use crate::shell::quoted;

/// Writes what a branch changed to a directory: to the one that is named, or to the first of the
/// usual places that takes it.
pub(crate) fn export(
    session: &mut Session,
    branch: &str,
    named: Option<PathBuf>,
) -> Result<(PathBuf, Exported), Failure> {
    session.look_again()?;
    let is_named = named.is_some();
    let places = match named {
        Some(directory) => vec![std::path::absolute(directory).map_err(Failure::Input)?],
        None => usual(branch, session.project.lower.as_path()),
    };
    // The usual places may take what the named one does not.
    let dir = if is_named { "" } else { " DIR" };
    let mut failure = None;
    for directory in places {
        let request = BranchExport {
            name: branch.to_owned(),
            path: directory.as_path().into(),
        };
        match session.call_within(request, Deadline::NEVER) {
            Ok(written) => return Ok((directory, written)),
            Err(error) => failure = Some(error),
        }
    }
    let why = failure.map(|it| it.to_string()).unwrap_or_default();
    let command = session.command();
    Err(Failure::Other(format!(
        "the changes cannot be exported: {why}; they stay in the branch {branch}, and are exported \
         elsewhere with: {command} branch export {branch}{dir}"
    )))
}

/// The command that applies what was exported. Where the project's directory is gone, its path is
/// named: whoever types it sees which directory it is that is there now.
pub(crate) fn apply_command(session: &Session, directory: &Path) -> String {
    let ProjectInfo {
        lower,
        place,
        now_at,
        ..
    } = &session.project;
    let is_there = match place {
        ProjectPlace::InPlace | ProjectPlace::Nowhere => true,
        ProjectPlace::Elsewhere => !now_at.is_empty(),
        ProjectPlace::Deleted => false,
    };
    let directory = quoted(directory.as_os_str());
    if is_there {
        format!("agentfs apply {directory}")
    } else {
        let project = quoted(lower.as_path().as_os_str());
        format!("agentfs apply {directory} --to {project}")
    }
}

/// New directories for an export, the best one first.
fn usual(branch: &str, project: &Path) -> Vec<PathBuf> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let time = time_text(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
    let time: String = time.chars().filter(|it| *it != '-' && *it != ':').collect();
    let time = time.replace(' ', "-");
    let mut name = OsString::from(branch.replace('/', "-"));
    name.push(format!("-{time}-{}", std::process::id()));
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let state = variable("XDG_STATE_HOME")
        .filter(|it| it.is_absolute())
        .or_else(|| Some(variable("HOME")?.join(".local/state")))
        .map(|it| {
            it.join("agentfs/changes")
                .join(project.file_name().unwrap_or_default())
        });
    let uid = rustix::process::geteuid().as_raw();
    let temporary = std::env::temp_dir().join(format!("agentfs-changes-{uid}"));
    let places = [state, Some(temporary)].into_iter().flatten();
    // What is exported into the project would be a change of it.
    let outside = places.filter(|it| project.as_os_str().is_empty() || !it.starts_with(project));
    outside.map(|it| it.join(&name)).collect()
}
