//! Exports what a branch changed, to a directory that the user named or to a default one.

use std::path::{Path, PathBuf};

use agentfs_client::CallError;
use agentfs_proto::message::{BranchExport, Exported, ProjectInfo, ProjectPlace};

use crate::output::failure::Failure;
use crate::project::connection::DaemonConnection;

/// Exports what a branch changed to the directory that the user named, or to the first default directory
/// that takes it. `send` makes the request.
pub(crate) fn export(
    connection: &mut DaemonConnection,
    branch: &str,
    named: Option<PathBuf>,
    mut send: impl FnMut(&mut DaemonConnection, BranchExport) -> Result<Exported, Failure>,
) -> Result<(PathBuf, Exported), Failure> {
    connection.look_again()?;
    let is_named = named.is_some();
    let directories = match named {
        Some(directory) => vec![Ok(std::path::absolute(directory).map_err(Failure::Input)?)],
        None => {
            let project = connection.project.lower.as_path();
            let places = agentfs_export::default_directories(project).into_iter();
            places.map(|it| it.prepare(project, branch)).collect()
        }
    };
    let mut failures = Vec::new();
    for directory in directories {
        let directory = match directory {
            Ok(directory) => directory,
            Err(error) => {
                failures.push(error.to_string());
                continue;
            }
        };
        let request = BranchExport {
            name: branch.to_owned(),
            path: directory.as_path().into(),
        };
        match send(connection, request) {
            Ok(exported) => return Ok((directory, exported)),
            Err(Failure::Call(_, CallError::Refused(error))) => failures.push(error.to_string()),
            Err(failure) => return Err(failure),
        }
    }
    let why = failures.join("; ");
    let why = format!("the changes cannot be exported: {why}");
    // A default directory may take what the named one does not.
    Err(if is_named {
        kept_until(connection, branch, &why, "")
    } else {
        kept(connection, branch, &why)
    })
}

/// Returns the failure that says that the changes stay in the branch, and how to export them elsewhere.
pub(crate) fn kept(connection: &DaemonConnection, branch: &str, why: &str) -> Failure {
    kept_until(connection, branch, why, " DIR")
}

fn kept_until(connection: &DaemonConnection, branch: &str, why: &str, dir: &str) -> Failure {
    let command = connection.command();
    Failure::Other(format!(
        "{why}; they stay in the branch {branch}, and are exported elsewhere with: {command} branch \
         export {branch}{dir}"
    ))
}

/// Returns the command that applies an export. If the project's directory is gone, the command names its
/// former path, so that the user sees which directory is there now.
pub(crate) fn apply_command(connection: &DaemonConnection, directory: &Path) -> String {
    let ProjectInfo {
        lower,
        place,
        now_at,
        ..
    } = &connection.project;
    let project = match place {
        ProjectPlace::Elsewhere if !now_at.is_empty() => now_at,
        ProjectPlace::InPlace
        | ProjectPlace::Nowhere
        | ProjectPlace::Elsewhere
        | ProjectPlace::Deleted => lower,
    };
    agentfs_export::command::apply_command(directory, project.as_path())
}
