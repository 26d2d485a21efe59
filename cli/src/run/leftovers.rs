//! Reports what earlier runs left behind.

use std::io::{self, Write as _};
use std::path::Path;

use agentfs_client::CallError;
use agentfs_proto::message::{BranchInfo, BranchList, BranchRetire};

use super::PREFIX;
use super::changes::changes_of;
use super::root::is_in_place;
use crate::mount;
use crate::output::failure::Failure;
use crate::project::connection::DaemonConnection;
use crate::project::{self, Daemon, Identity};

/// Reports the changes that earlier runs of the project left in their branches, and those of a directory
/// that was at the project's path before.
pub(super) fn report(
    json: bool,
    project: &Path,
    connection: &mut DaemonConnection,
) -> Result<(), Failure> {
    if json {
        return Ok(());
    }
    for name in left_in(connection, |name| name.starts_with(PREFIX))? {
        notice(&format!(
            "agentfs: {name}, of a run that is over, has changes"
        ));
        print_commands(connection, &name, &["diff", "apply", "delete"]);
    }
    let default = Daemon::ask(&project::default_socket()).ok().flatten();
    for daemon in default.into_iter().chain(project::others()) {
        if daemon.socket != connection.socket && !is_in_place(&daemon) && concerns(&daemon, project)
        {
            // A daemon that no longer answers has nothing to report.
            drop(report_former(&daemon));
        }
    }
    Ok(())
}

/// Returns whether a daemon has the directory that was at this path before, or this directory from before it
/// was moved here.
fn concerns(daemon: &Daemon, project: &Path) -> bool {
    let is_moved_here = Identity::of(project).is_ok_and(|it| daemon.has(it));
    is_moved_here || daemon.project.lower.as_path() == project
}

fn report_former(daemon: &Daemon) -> Result<(), Failure> {
    let mut connection = DaemonConnection::connect(&daemon.socket, String::new())?;
    let lower = daemon.project.lower.clone();
    let left = left_in(&mut connection, |_| true)?;
    for name in &left {
        notice(&format!(
            "agentfs: the branch {name} of the directory that was at {lower} before has changes"
        ));
        print_commands(&connection, name, &["diff", "export"]);
    }
    // Other daemons end by themselves.
    if left.is_empty() && daemon.socket == project::default_socket() {
        let command = connection.command();
        notice(&format!(
            "agentfs: a daemon is over the directory that was at {lower} before; end it with: {command} \
             shutdown"
        ));
    }
    Ok(())
}

/// Returns the branches that have changes, that no run has, and that no mount shows.
fn left_in(
    connection: &mut DaemonConnection,
    wanted: fn(&str) -> bool,
) -> Result<Vec<String>, Failure> {
    let mut left = Vec::new();
    let free = branches(connection)?.into_iter().filter(|it| it.run == 0);
    let mut unchanged = Vec::new();
    for branch in free.filter(|it| wanted(&it.name)) {
        // The mounts are listed for each branch, because a run may have begun just now.
        let mounts = mount::list(connection)?;
        let is_shown = mounts.iter().any(|it| it.branch == branch.id);
        if is_shown {
            continue;
        }
        if changes_of(connection, &branch.name)?.is_empty() {
            unchanged.push(branch.name);
        } else {
            left.push(branch.name);
        }
    }
    unchanged.retain(|it| is_of_run(it));
    for name in unchanged {
        // Its run was to have it deleted, but the daemon ended before. A branch that was changed
        // meanwhile stays.
        let retired = connection.call(BranchRetire { name, seq: 0 });
        if !matches!(retired, Err(CallError::Refused(_))) {
            retired?;
        }
    }
    Ok(left)
}

/// Returns whether a name is one that `agentfs run` gives.
fn is_of_run(name: &str) -> bool {
    let number = name.strip_prefix(PREFIX).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|it| it.is_ascii_digit())
}

pub(super) fn branches(connection: &mut DaemonConnection) -> Result<Vec<BranchInfo>, Failure> {
    let mut all: Vec<BranchInfo> = Vec::new();
    loop {
        let after = all.last().map_or(0, |it| it.id);
        let page = connection.call(BranchList { after })?;
        all.extend(page.branches);
        if !page.more {
            return Ok(all);
        }
    }
}

/// Prints the commands for a branch with changes, each as it is typed in the current directory.
pub(super) fn print_commands(connection: &DaemonConnection, branch: &str, verbs: &[&str]) {
    for verb in verbs {
        let what = match *verb {
            "diff" => "to see them",
            "apply" => "to apply them",
            "export" => "to export them",
            _ => "to throw them away",
        };
        let command = connection.command();
        notice(&format!(
            "agentfs: {what}: {command} branch {verb} {branch}"
        ));
    }
}

fn notice(line: &str) {
    // Nothing is left to report to when this fails.
    drop(writeln!(io::stderr(), "{line}"));
}
