//! `agentfs run`: a command in a branch of its own, mounted on the project's own path.
//!
//! The daemon is a process of its own, which is started when there is none and ends when it is not
//! needed any more. So a run that is killed loses no changes. This process stays outside the branch,
//! starts the command inside, passes signals on, and at the end does with the changes what the user
//! wants.

mod changes;
pub(crate) mod child;
mod daemon_exit;
mod finish;
mod interruptible;
mod leftovers;
mod next_daemon;
pub(crate) mod processes;
mod root;
pub(crate) mod spawn_daemon;
mod supervise;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::SystemTime;

use agentfs_client::CallError;
use agentfs_proto::message::{BranchCreate, BranchHold, Code, Status, Store, StoreAction};
use clap::Args;

use self::finish::{Finish, FinishArgs};
use self::root::Root;
use self::spawn_daemon::Options;
use crate::branch;
use crate::common::Common;
use crate::echo_mode::Echo;
use crate::environment::BRANCH_VARIABLE;
use crate::exec::{self, FAILED};
use crate::mount;
use crate::output::failure::Failure;
use crate::project::connection::DaemonConnection;
use crate::project::freezing::{self, ExcludeArgs};
use crate::project::settings::Settings;
use crate::project::size::size;
use crate::project::store::{LimitArgs, StoreArgs};
use crate::status::coverage::Coverage;

/// How the names of branches begin when the user names none.
const PREFIX: &str = "run-";

/// Run a command in a branch of its own of a project
///
/// The command sees the project at its usual place, changes only its branch, and is notified of changes
/// that others make there. A daemon is started if none runs; it ends when it is not needed any more.
///
/// When the command ends, the changes are shown. An option says what becomes of them; without one, you are
/// asked on a terminal, and elsewhere they are exported.
///
/// The exit status is that of the command, 128 and the signal's number if one ended it, and 125 if
/// agentfs failed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs run -- npm run dev
  agentfs run --apply -- cargo fix
  agentfs run --frozen -- cargo test      nothing that others change meanwhile is seen
  agentfs run --lower ~/project --branch attempt-1 --export /tmp/attempt-1 -- make
  agentfs join attempt-1 -- bash          another command in the same branch, meanwhile")]
pub(crate) struct RunArgs {
    /// The project is exactly this directory. Without it, the project is the nearest directory upwards that
    /// a daemon serves or that is the root of a git repository, or else the current directory
    #[arg(long, value_name = "DIR", conflicts_with = "project")]
    lower: Option<PathBuf>,
    /// The name of the branch. A branch that exists already is continued
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// Make the branch frozen: it shows the project as it is now, and nothing that others change there
    /// until the branch ends. The first frozen branch copies the project into the store; further ones share
    /// that copy, and take anew only what has changed since. Without it, the branch is live: where it has
    /// changed nothing, it shows the project as it is at any time
    #[arg(long, conflicts_with = "no_mount")]
    frozen: bool,
    /// Make the branch live although the project's .agentfs.json says {"frozen": true}
    #[arg(long, conflicts_with_all = ["no_mount", "frozen"])]
    live: bool,
    #[command(flatten)]
    exclude: ExcludeArgs,
    #[command(flatten)]
    finish: FinishArgs,
    /// When to replay outside changes through the mount, so that programs the library cannot be preloaded
    /// into (static, Go, setuid) still get events. Applies only if this command starts the daemon
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        conflicts_with = "no_mount"
    )]
    echo: Echo,
    #[command(flatten)]
    keeping: StoreArgs,
    #[command(flatten)]
    limit: LimitArgs,
    /// Let the branch have at most so many bytes of content beside those that it begins with, as in 500M or
    /// 20G. A write beyond fails with EDQUOT, and other branches go on
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "no_mount")]
    max_size: Option<u64>,
    /// Run the command in the directory itself, without a branch or a mount, under the preloaded library
    /// only
    #[arg(long, conflicts_with_all = ["lower", "branch", "finish", "keeping", "max_store"])]
    no_mount: bool,
    /// The command with its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// A branch for one run.
#[derive(Debug)]
struct Branch {
    name: String,
    /// The branch did not exist before, so it may go afterwards.
    is_new: bool,
}

pub(crate) fn run(common: &Common, args: RunArgs) -> ExitCode {
    if args.no_mount {
        return in_place(common, &args.command);
    }
    match in_branch(common, args) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            failure.report(common.json);
            ExitCode::from(FAILED)
        }
    }
}

/// Runs the command under the library in the current directory.
fn in_place(common: &Common, words: &[OsString]) -> ExitCode {
    let mut command = exec::command(words);
    let attached = common.socket_path().and_then(|socket| {
        exec::attach(&mut command, &socket, None)?;
        if common.project.is_some() {
            command.current_dir(common.start()?);
        }
        Ok(())
    });
    match attached {
        Ok(()) => exec::replace(command, common.json),
        Err(failure) => {
            failure.report(common.json);
            ExitCode::from(FAILED)
        }
    }
}

fn in_branch(common: &Common, args: RunArgs) -> Result<u8, Failure> {
    if let Some(branch) = std::env::var_os(BRANCH_VARIABLE) {
        let branch = branch.display();
        return Err(Failure::Other(format!(
            "this already is in a run, of the branch {branch}, and a branch for a run is made of the \
             project: start the command as it is, or start agentfs run outside"
        )));
    }
    agentfs_mount::check_device().map_err(|error| Failure::Other(error.to_string()))?;
    let since = SystemTime::now();
    let Root { project, directory } = root::find(common, args.lower)?;
    let options = Options {
        echo: args.echo,
        keeping: args.keeping,
    };
    let mut connection = spawn_daemon::find_or_start(common, &project, &options)?;
    let json = common.json;
    leftovers::report(json, &project, &mut connection)?;
    if !json {
        report_gap(&mut connection)?;
    }
    if let Some(most) = args.limit.max_store {
        let action = StoreAction::Limit;
        connection.call_long(Store { action, most })?;
    }
    let settings = Settings::of(&project)?;
    let frozen = args.frozen || (settings.frozen && !args.live);
    let new = NewBranch {
        frozen,
        must_be_frozen: args.frozen,
        max_size: args.max_size.unwrap_or(0),
        exclude: args.exclude.with(&settings, ("--frozen", frozen))?,
        json,
    };
    let branch = open_branch(&mut connection, args.branch, &new)?;
    let store = connection.store()?;
    let mut command = Command::new(spawn_daemon::PROGRAM);
    command
        .arg("--socket")
        .arg(&connection.socket)
        .args(["enter", "--branch", &branch.name, "--at"])
        .arg(&project)
        .arg("--directory")
        .arg(&directory);
    if branch.is_new {
        command.arg("--retire");
    }
    if json {
        command.arg("--json");
    }
    command.arg("--").args(&args.command);
    let mut next = options.clone();
    if store.is_some() {
        // Also where the user has named it to the daemon only.
        next.keeping.store.clone_from(&store);
    }
    let ended = supervise::run(command).map_err(Failure::Input)?;
    let status = status_of(ended);
    let finish = Finish {
        json,
        connection: &mut connection,
        branch: &branch.name,
        is_new: branch.is_new,
        project: &project,
        since,
        store,
        decided: None,
        restart: &|| spawn_daemon::find_or_start(common, &project, &next),
    };
    let is_finished = finish.run(args.finish)?;
    Ok(if is_finished || status != 0 {
        status
    } else {
        FAILED
    })
}

/// Reports which directories of the project the daemon does not watch, and why.
fn report_gap(connection: &mut DaemonConnection) -> Result<(), Failure> {
    let report = connection.call(Status { after: 0 })?;
    if let Some(gap) = Coverage(&report).line() {
        // If the line cannot be written, `agentfs status` still has it.
        drop(writeln!(io::stderr(), "agentfs: {gap}"));
    }
    Ok(())
}

/// Converts the end of a command to an exit status, as a shell does.
fn status_of(ended: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let status = match (ended.code(), ended.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or_default(),
    };
    u8::try_from(status).unwrap_or(u8::MAX)
}

/// Returns whether there is a branch of this name that is frozen.
fn is_frozen(connection: &mut DaemonConnection, name: &str) -> Result<bool, Failure> {
    let branches = branch::all(connection)?;
    Ok(branches.iter().any(|it| it.name == name && it.frozen))
}

/// What a branch is made like.
#[derive(Debug)]
struct NewBranch {
    frozen: bool,
    /// Whether a branch that exists already must be frozen.
    must_be_frozen: bool,
    /// How many bytes it may have; 0 for as many as there are.
    max_size: u64,
    exclude: Vec<String>,
    /// Whether progress is reported to a program.
    json: bool,
}

/// Returns the branch of this name, which is made if it does not exist, or a new one.
fn open_branch(
    connection: &mut DaemonConnection,
    name: Option<String>,
    new: &NewBranch,
) -> Result<Branch, Failure> {
    let Some(name) = name else {
        return new_branch(connection, new);
    };
    let is_new = create(connection, &name, new)?;
    if new.must_be_frozen && !is_new && !is_frozen(connection, &name)? {
        return Err(Failure::Other(format!(
            "the branch {name} is live, and a branch stays what it was made; continue it without \
             --frozen, or name another branch"
        )));
    }
    let is_held = hold(connection, &name)?;
    let mounts = mount::list(connection)?;
    if !is_held || mounts.iter().any(|it| it.branch_name == name) {
        let command = connection.command();
        return Err(Failure::Other(format!(
            "the branch {name} is at work already; join it with: {command} join {name} -- COMMAND"
        )));
    }
    Ok(Branch { name, is_new })
}

fn new_branch(connection: &mut DaemonConnection, new: &NewBranch) -> Result<Branch, Failure> {
    let mut number = 1_u64;
    loop {
        let name = format!("{PREFIX}{number}");
        if create(connection, &name, new)? && hold(connection, &name)? {
            return Ok(Branch { name, is_new: true });
        }
        number += 1;
    }
}

/// Makes a branch. Returns false when there is one of the name.
fn create(connection: &mut DaemonConnection, name: &str, new: &NewBranch) -> Result<bool, Failure> {
    let request = BranchCreate {
        name: name.to_owned(),
        from_branch: String::new(),
        from_snapshot: String::new(),
        frozen: new.frozen,
        max_size: new.max_size,
        exclude: new.exclude.clone(),
    };
    match freezing::call(connection, request, new.json) {
        Ok(_) => Ok(true),
        Err(CallError::Refused(error)) if error.code == Code::EXISTS => Ok(false),
        Err(error) => Err(Failure::Call(name.to_owned(), error)),
    }
}

/// Claims a branch for this run until its changes are settled. Returns false when another run has the
/// branch, or it is gone.
fn hold(connection: &mut DaemonConnection, name: &str) -> Result<bool, Failure> {
    let request = BranchHold {
        name: name.to_owned(),
    };
    match connection.call(request) {
        Ok(_) => Ok(true),
        Err(CallError::Refused(error)) if [Code::BUSY, Code::NOT_FOUND].contains(&error.code) => {
            Ok(false)
        }
        Err(error) => Err(Failure::Call(name.to_owned(), error)),
    }
}
