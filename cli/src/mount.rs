//! `agentfs mount` and `agentfs umount`

use std::path::{Path, PathBuf};

use agentfs_proto::message::{Mount, MountInfo, MountList, Unmount};
use clap::Args;

use crate::common::Common;
use crate::output::failure::Failure;
use crate::output::{Output, Table};
use crate::project::Found;
use crate::project::connection::DaemonConnection;

/// Mount a branch on a directory, so that any program can work in it
///
/// The mount stays until `agentfs umount`, or until the daemon ends. To have a branch at the project's own
/// path and for one command only, use `agentfs run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mkdir work && agentfs mount attempt-1 work
  cd work && cargo test")]
pub(crate) struct MountArgs {
    /// The branch; every daemon has one that is called main
    branch: String,
    /// The directory, which must exist
    dir: PathBuf,
}

/// Unmount a branch
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  agentfs umount work")]
pub(crate) struct UmountArgs {
    /// The directory on which the branch is mounted
    dir: PathBuf,
    /// Unmount even while programs use the mount; they go on with the files that they have open
    #[arg(long)]
    detach: bool,
}

pub(crate) fn mount(common: &Common, args: MountArgs, output: &mut Output) -> Result<(), Failure> {
    let mut connection = DaemonConnection::open(common, "")?;
    let about = args.dir.display().to_string();
    let request = Mount {
        branch: args.branch,
        path: absolute(&args.dir)?.as_path().into(),
    };
    let mounted = connection
        .call(request)
        .map_err(|error| Failure::Call(about, error))?;
    if output.is_json() {
        return output.json(&connection.with_project(mounted));
    }
    let of_project = connection.of_project();
    let MountInfo {
        branch_name, path, ..
    } = mounted;
    output.line(format_args!(
        "branch {branch_name}{of_project} is mounted on {path}"
    ))
}

pub(crate) fn unmount(
    common: &Common,
    args: UmountArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut connection = connection_of_mount(common, &args.dir)?;
    let about = args.dir.display().to_string();
    let request = Unmount {
        path: absolute(&args.dir)?.as_path().into(),
        detach: args.detach,
    };
    let done = connection
        .call(request)
        .map_err(|error| Failure::Call(about, error))?;
    if output.is_json() {
        return output.json(&connection.with_project(done));
    }
    let (dir, of_project) = (args.dir.display(), connection.of_project());
    output.line(format_args!("unmounted {dir}{of_project}"))
}

/// Connects to the daemon that serves the mount. A mount that no daemon serves any more is unmounted by
/// any daemon; none unmounts what is neither its own nor dead.
fn connection_of_mount(common: &Common, dir: &Path) -> Result<DaemonConnection, Failure> {
    let is_named = common.project.is_some() || common.named_socket().is_some();
    let there = Common {
        project: Some(dir.to_owned()),
        ..Common::default()
    };
    match there.find() {
        Ok(Found::Mounted(daemon, _)) if !is_named => {
            DaemonConnection::connect(&daemon.socket, String::new())
        }
        _ => DaemonConnection::open_to_look(common, ""),
    }
}

/// Returns all mounts that the connection may see.
pub(crate) fn list(connection: &mut DaemonConnection) -> Result<Vec<MountInfo>, Failure> {
    let mut mounts: Vec<MountInfo> = Vec::new();
    loop {
        let after = mounts.last().map_or(0, |mount| mount.id);
        let page = connection.call(MountList { after })?;
        mounts.extend(page.mounts);
        if !page.more {
            return Ok(mounts);
        }
    }
}

/// Returns the branch on whose mount the current directory lies.
pub(crate) fn branch_here(connection: &mut DaemonConnection) -> Result<Option<String>, Failure> {
    // A directory that cannot be looked at is on no mount.
    let Ok(here) = rustix::fs::stat(".") else {
        return Ok(None);
    };
    let mounts = list(connection)?;
    let found = mounts.into_iter().find(|it| device(it) == here.st_dev);
    Ok(found.map(|it| it.branch_name))
}

/// Returns the mounts as a table for people.
pub(crate) fn table(mounts: &[MountInfo]) -> Table {
    let mut table = Table::new(&["MOUNT", "BRANCH", "DEVICE", "DIRECTORY"]);
    for it in mounts {
        let (major, minor) = (rustix::fs::major(device(it)), rustix::fs::minor(device(it)));
        table.row([
            it.id.to_string(),
            it.branch_name.clone(),
            format!("{major}:{minor}"),
            it.path.to_string(),
        ]);
    }
    table
}

/// Returns the device number in the type of this system.
fn device(mount: &MountInfo) -> rustix::fs::Dev {
    rustix::fs::Dev::try_from(mount.st_dev).unwrap_or_default()
}

/// Makes a path absolute, because the daemon has another working directory.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(path).map_err(|error| Failure::directory(path, &error))
}
