//! `agentfs exec`: a command under the preloaded library.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use agentfs_proto::message::{BranchToken, Token};
use agentfs_proto::socket;
use clap::Args;

use crate::common::Common;
use crate::environment::{BRANCH_VARIABLE, TOKEN_VARIABLE};
use crate::mount;
use crate::output::failure::Failure;
use crate::project::connection::DaemonConnection;
use crate::shim;

/// Exit statuses of programs that run another, as env(1) and timeout(1) have them.
pub(crate) const FAILED: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Run a command that is notified of changes in a mounted branch
///
/// Use it for programs that watch files on a mount made by `agentfs mount`. Commands of `agentfs run` are
/// notified without it.
///
/// The preloaded library delivers the events of one branch: the one that --branch names, or else the one
/// that is mounted where the command is started, or else main. On mounts of other branches the kernel
/// delivers events as well, unless the daemon was started with --echo never.
///
/// The command replaces this process: its exit status and the signals it gets are its own. Exit
/// status 125 means that agentfs failed, 126 that the command cannot be run, 127 that it was not found.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mkdir work && agentfs mount attempt-1 work
  cd work && agentfs exec -- inotifywait -m -r .")]
pub(crate) struct ExecArgs {
    /// The branch whose events are delivered, instead of the one that is mounted on the current directory
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// The command with its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Becomes the command. Returns only when that fails.
pub(crate) fn run(common: &Common, args: ExecArgs) -> ExitCode {
    let prepared = prepare(common, args.branch, &args.command);
    match prepared {
        Ok(command) => replace(command, common.json),
        Err(failure) => {
            failure.report(common.json);
            ExitCode::from(FAILED)
        }
    }
}

fn prepare(
    common: &Common,
    branch: Option<String>,
    words: &[OsString],
) -> Result<Command, Failure> {
    let mut connection =
        DaemonConnection::open_to_look(common, branch.as_deref().unwrap_or_default())?;
    let branch = match branch {
        Some(named) => Some(named),
        None => mount::branch_here(&mut connection)?,
    };
    let token = match branch {
        Some(name) => Some(connection.call(BranchToken { name })?.token),
        None => None,
    };
    let mut command = command(words);
    attach(&mut command, &connection.socket, token)?;
    Ok(command)
}

/// Returns the command with its arguments.
pub(crate) fn command(words: &[OsString]) -> Command {
    let mut words = words.iter();
    let mut command = Command::new(words.next().cloned().unwrap_or_default());
    command.args(words);
    command
}

/// Has the preloaded library connect a command to the daemon at `socket`.
pub(crate) fn attach(
    command: &mut Command,
    socket: &Path,
    token: Option<Token>,
) -> Result<(), Failure> {
    let library = shim::install().map_err(|error| Failure::Other(error.to_string()))?;
    shim::preload(command, &library);
    let socket = absolute(socket)?;
    // Variables that name a branch of another daemon, or another branch, are not passed on.
    if std::env::var_os(socket::SOCKET_VARIABLE).is_none_or(|it| Path::new(&it) != socket) {
        command.env_remove(TOKEN_VARIABLE);
        command.env_remove(BRANCH_VARIABLE);
    } else if token.is_some() {
        command.env_remove(BRANCH_VARIABLE);
    }
    command.env(socket::SOCKET_VARIABLE, socket);
    if let Some(token) = token {
        command.env(TOKEN_VARIABLE, token.to_string());
    }
    Ok(())
}

/// Makes a path absolute, because the command may change its working directory.
fn absolute(socket: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(socket)
        .map_err(|error| Failure::Other(format!("{}: {error}", socket.display())))
}

/// Replaces this process by the command. Returns only when that fails.
pub(crate) fn replace(mut command: Command, json: bool) -> ExitCode {
    let error = command.exec();
    let status = if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    };
    let program = command.get_program().display();
    Failure::Other(format!("{program}: {error}")).report(json);
    ExitCode::from(status)
}
