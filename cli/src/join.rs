//! `agentfs join`: another command in the branch of a run.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use agentfs_proto::message::MountInfo;
use clap::Args;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::common::Common;
use crate::exec::{self, FAILED};
use crate::mount;
use crate::output::failure::Failure;
use crate::project::connection::DaemonConnection;
use crate::run::child;
use crate::run::processes::{self, MountProcess};

/// Run another command in the branch of a run
///
/// Use it to start a shell, a build or a watcher beside the command of `agentfs run`: both see and change
/// the same files. The command replaces this process: the exit status is its own.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs join run-1 -- bash
  agentfs join attempt-1 -- git status")]
pub(crate) struct JoinArgs {
    /// The branch; `agentfs branch list` shows which branches have a run
    branch: String,
    /// The command with its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Becomes the command. Returns only when that fails.
pub(crate) fn run(common: &Common, args: &JoinArgs) -> ExitCode {
    match join(common, args) {
        Ok(command) => exec::replace(command, common.json),
        Err(failure) => {
            failure.report(common.json);
            ExitCode::from(FAILED)
        }
    }
}

fn join(common: &Common, args: &JoinArgs) -> Result<Command, Failure> {
    let branch = &args.branch;
    let mut connection = DaemonConnection::open(common, branch)?;
    let directory = std::env::current_dir();
    let command = child::prepare(&mut connection, branch, &args.command)?;
    let address = connection.command().to_owned();
    let mut mounts = mount::list(&mut connection)?;
    mounts.retain(|it| it.branch_name == *branch);
    let (mount, process) = mounts
        .iter()
        .find_map(|mount| {
            Some((
                mount,
                processes::of(mount, &connection.project)
                    .into_iter()
                    .next()?,
            ))
        })
        .ok_or_else(|| {
            Failure::Other(format!(
                "nobody is at work in the branch {branch}; start with: {address} run --branch \
                 {branch} -- COMMAND"
            ))
        })?;
    enter(&process).map_err(|error| {
        let MountProcess { pid, name, .. } = &process;
        Failure::Other(format!("process {pid} ({name}) cannot be joined: {error}"))
    })?;
    check(mount, &process.point)?;
    if !common.json {
        let of_project = connection.of_project();
        drop(writeln!(
            io::stderr(),
            "agentfs: joins {branch}{of_project}"
        ));
    }
    let project = &process.point;
    let directory = directory.unwrap_or_else(|_| project.clone());
    child::go_to(&directory, project)?;
    child::require_branch(&directory, project, mount.st_dev)?;
    Ok(command)
}

/// Moves this process into the namespaces of another one (setns(2)).
fn enter(process: &MountProcess) -> io::Result<()> {
    // Both are opened first: in the other namespaces /proc may be another one.
    let (user, mounts) = (process.namespace("user"), process.namespace("mnt"));
    let is_same_user = fs::read_link(&user)? == fs::read_link("/proc/self/ns/user")?;
    let user = File::open(user)?;
    let mounts = File::open(mounts)?;
    if !is_same_user {
        move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))?;
    }
    move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
    Ok(())
}

/// Checks that the branch is there: the process could have ended, and its number be that of another one.
fn check(mount: &MountInfo, path: &Path) -> Result<(), Failure> {
    match rustix::fs::stat(path) {
        Ok(found) if found.st_dev == mount.st_dev => Ok(()),
        Ok(_) => Err(Failure::Other(format!(
            "the branch {} is not at {} any more",
            mount.branch_name,
            path.display()
        ))),
        Err(error) => Err(Failure::Other(format!("{}: {error}", path.display()))),
    }
}
