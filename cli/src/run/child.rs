//! The child of `agentfs run`: it enters a mount namespace, mounts the branch, and becomes the command.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use agentfs_client::Deadline;
use agentfs_mount::MountOptions;
use agentfs_proto::message::{BranchRetire, BranchToken, MountServe};
use clap::Args;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rustix::mount::MountPropagationFlags;

use super::supervise;
use crate::common::Common;
use crate::environment::BRANCH_VARIABLE;
use crate::exec::{self, FAILED};
use crate::output::failure::Failure;
use crate::project::connection::{DaemonConnection, PATIENCE};

/// What is added to the score by which the kernel chooses whom it ends when memory runs out; 1000 stands for
/// all memory.
const OOM_SCORE_ADDED: i32 = 300;

/// Mount a branch in a mount namespace and run a command there (what `agentfs run` starts)
#[derive(Debug, Args)]
#[command(after_help = "Example:
  agentfs enter --branch run-1 --at ~/project --directory ~/project -- make")]
pub(crate) struct EnterArgs {
    #[arg(long)]
    branch: String,
    /// Where the branch is mounted
    #[arg(long)]
    at: PathBuf,
    /// The working directory of the command
    #[arg(long)]
    directory: PathBuf,
    /// Let the daemon delete the branch if it is unchanged when the mount ends
    #[arg(long)]
    retire: bool,
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// Becomes the command. Returns only when that fails.
pub(crate) fn run(common: &Common, args: EnterArgs) -> ExitCode {
    match enter(common, args) {
        Ok(command) => exec::replace(command, common.json),
        Err(failure) => {
            failure.report(common.json);
            ExitCode::from(FAILED)
        }
    }
}

fn enter(common: &Common, args: EnterArgs) -> Result<Command, Failure> {
    supervise::unblock().map_err(Failure::Input)?;
    let mut connection = DaemonConnection::open(common, &args.branch)?;
    let command = prepare(&mut connection, &args.branch, &args.command)?;
    separate().map_err(|error| {
        Failure::Other(format!(
            "no private mount can be made: {error}; `agentfs doctor` shows what is missing"
        ))
    })?;
    let options = MountOptions::default();
    let unserved = agentfs_mount::mount_elsewhere(&args.at, &options)
        .map_err(|error| Failure::Other(error.to_string()))?;
    let request = MountServe {
        branch: args.branch.clone(),
        path: args.at.as_path().into(),
        st_dev: unserved.st_dev,
        group: unserved.group.unwrap_or(u32::MAX),
    };
    let device = unserved.device;
    connection
        .client
        .serve_mount(request, device.as_fd(), Deadline::after(PATIENCE))?;
    // If it stayed open here, the mount would hang after the death of its daemon.
    drop(device);
    if args.retire {
        // With sequence 0, only a branch without any change is deleted.
        let (name, seq) = (args.branch, 0);
        connection.call(BranchRetire { name, seq })?;
    }
    go_to(&args.directory, &args.at)?;
    require_branch(&args.directory, &args.at, unserved.st_dev)?;
    Ok(command)
}

/// Prepares the command for a branch: its variables and the preloaded library.
pub(crate) fn prepare(
    connection: &mut DaemonConnection,
    branch: &str,
    words: &[OsString],
) -> Result<Command, Failure> {
    let name = branch.to_owned();
    let token = connection.call(BranchToken { name })?.token;
    let mut command = exec::command(words);
    exec::attach(&mut command, &connection.socket, Some(token))?;
    command.env(BRANCH_VARIABLE, branch);
    if let Err(error) = offer_to_oom_killer() {
        tracing::debug!(%error, "the kernel may end the daemon before the command");
    }
    Ok(command)
}

/// Has the kernel end this process and its children before the daemon when memory runs out: the end of the
/// daemon concerns all branches. An ordinary user can only raise a score (proc_pid_oom_score_adj(5)), so that
/// of the command is raised and that of the daemon stays.
fn offer_to_oom_killer() -> io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    const MOST: i32 = 1000;
    let own: i32 = fs::read_to_string(FILE)?.trim().parse().unwrap_or(0);
    fs::write(FILE, (own + OOM_SCORE_ADDED).min(MOST).to_string())
}

/// Changes to the directory as it is in the branch; until now it is that of the project.
pub(crate) fn go_to(directory: &Path, project: &Path) -> Result<(), Failure> {
    std::env::set_current_dir(directory)
        .or_else(|_| std::env::set_current_dir(project))
        .map_err(|error| Failure::Other(format!("{}: {error}", directory.display())))
}

/// Refuses to start the command in the project itself: while the branch was mounted on the project's
/// directory, another program may have put another directory at its path.
pub(crate) fn require_branch(directory: &Path, project: &Path, st_dev: u64) -> Result<(), Failure> {
    let here = rustix::fs::stat(".").map_err(|error| Failure::Input(error.into()))?;
    // A command for a project may be started from elsewhere.
    let is_elsewhere = !directory.starts_with(project)
        && std::env::current_dir().ok().as_deref() == Some(directory);
    let at_project = rustix::fs::stat(project).map(|it| it.st_dev);
    if at_project == Ok(st_dev) && (is_elsewhere || here.st_dev == st_dev) {
        return Ok(());
    }
    Err(Failure::Other(format!(
        "another directory was put at {} while the branch was mounted there, so the command is not \
         started",
        project.display()
    )))
}

/// Moves this process into a new mount namespace, and into a new user namespace if it is not
/// privileged. What is mounted in the namespace is not seen outside.
fn separate() -> io::Result<()> {
    match unshare(CloneFlags::CLONE_NEWNS) {
        Err(Errno::EPERM) => separate_user()?,
        other => other?,
    }
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}

/// Makes a user namespace that has this user and this group and no others (user_namespaces(7)).
fn separate_user() -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

#[cfg(test)]
mod tests {
    use super::require_branch;

    #[test]
    fn a_command_is_not_started_beside_its_branch() {
        let here = std::env::current_dir().expect("a directory");
        let device = rustix::fs::stat(".").expect("a look").st_dev;
        require_branch(&here, &here, device).expect("the branch is here");
        let refused = require_branch(&here, &here, device + 1).expect_err("another directory");
        assert!(refused.to_string().contains("is not started"), "{refused}");
    }
}
