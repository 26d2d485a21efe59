//! `agentfs run`: a command in a branch of its own, mounted on the project's own path.
//!
//! The daemon is a process of its own, started when there is none and ended when nobody needs it: so
//! a session that is killed leaves its changes behind. This process stays outside the branch, starts
//! the command inside, passes signals on, and brings the changes home at the end.

pub(crate) mod inside;
pub(crate) mod join;
mod members;
mod settle;
mod start;
mod supervise;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use agentfs_proto::client::CallError;
use agentfs_proto::message::{BranchCreate, BranchInfo, BranchList, Code};
use clap::Args;

use self::settle::{Ending, EndingArgs};
use super::exec::{self, FAILED};
use super::session::Session;
use super::{Common, Failure, mount};
use crate::server::EchoMode;

/// What names the branch to `agentfs` commands inside.
pub(crate) const BRANCH_VARIABLE: &str = "AGENTFS_BRANCH";
/// What branches are called that nobody named.
const PREFIX: &str = "run-";

/// Run a command in a branch of its own of a project
///
/// The command sees the project at its usual place, changes only its branch, and hears of changes
/// that others make there. A daemon is started if none runs; it ends when nobody needs it. At the end
/// the changes are shown, and applied, exported or discarded as asked: without an option a question
/// is asked on a terminal, and else they are exported.
///
/// The exit status is that of the command, 128 and the signal's number if one ended it, and 125 if
/// agentfs failed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs run -- npm run dev
  agentfs run --apply -- cargo fix
  agentfs run --lower ~/project --branch attempt-1 --export /tmp/attempt-1 -- make
  agentfs join attempt-1 -- bash          another command in the same branch, meanwhile")]
pub(crate) struct RunArgs {
    /// The project, instead of the current directory
    #[arg(long, value_name = "DIR")]
    lower: Option<PathBuf>,
    /// The name of the branch; one that is there already is continued
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    #[command(flatten)]
    ending: EndingArgs,
    /// For whom the kernel tells of changes from outside, if this starts the daemon: for programs
    /// that the preloaded library does not reach, for all, or for none
    #[arg(
        long,
        value_name = "WHERE",
        default_value = "auto",
        conflicts_with = "no_mount"
    )]
    echo: EchoMode,
    /// Without a branch: in the directory itself, with the preloaded library only
    #[arg(long, conflicts_with_all = ["lower", "branch", "ending"])]
    no_mount: bool,
    /// The command with its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// A branch for one run.
#[derive(Debug)]
struct Branch {
    name: String,
    /// It did not exist before, so it need not afterwards.
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

/// Under the library, where we are.
fn in_place(common: &Common, words: &[OsString]) -> ExitCode {
    let mut command = exec::command(words);
    let socket = common
        .socket
        .clone()
        .unwrap_or_else(agentfs_proto::socket::default_path);
    match exec::attach(&mut command, &socket, None) {
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
    let project = project(args.lower)?;
    let directory = std::env::current_dir().unwrap_or_else(|_| project.clone());
    let start::Found {
        socket,
        mut session,
    } = start::find_or_start(common, &project, args.echo)?;
    let common = Common {
        json: common.json,
        socket: Some(socket.clone()),
    };
    settle::tell_of_leftovers(&common, &mut session)?;
    let branch = open_branch(&mut session, args.branch)?;
    let mut command = Command::new(start::PROGRAM);
    command
        .arg("--socket")
        .arg(&socket)
        .args(["enter", "--branch", &branch.name, "--project"])
        .arg(&project)
        .arg("--directory")
        .arg(&directory);
    if branch.is_new {
        command.arg("--retire");
    }
    if common.json {
        command.arg("--json");
    }
    command.arg("--").args(&args.command);
    let ended = supervise::run(command).map_err(Failure::Input)?;
    let status = status_of(ended);
    let ending = Ending {
        common: &common,
        session: &mut session,
        branch: &branch.name,
        is_new: branch.is_new,
        project: &project,
    };
    let is_settled = ending.settle(args.ending)?;
    Ok(if is_settled || status != 0 {
        status
    } else {
        FAILED
    })
}

/// What a shell makes of it.
fn status_of(ended: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let status = match (ended.code(), ended.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or_default(),
    };
    u8::try_from(status).unwrap_or(u8::MAX)
}

fn project(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let named = named.unwrap_or_else(|| PathBuf::from("."));
    let project =
        std::fs::canonicalize(&named).map_err(|error| Failure::directory(&named, &error))?;
    if project == Path::new("/") {
        let text = "a branch of / cannot be mounted on it; name a directory with --lower";
        return Err(Failure::Other(text.to_owned()));
    }
    Ok(project)
}

/// The branch of this name, which is made if it is not there; or a new one.
fn open_branch(session: &mut Session, name: Option<String>) -> Result<Branch, Failure> {
    let Some(name) = name else {
        return new_branch(session);
    };
    let mounts = mount::list(session)?;
    if mounts.iter().any(|it| it.branch_name == name) {
        return Err(Failure::Other(format!(
            "the branch {name} is at work already; join it with: agentfs join {name} -- COMMAND"
        )));
    }
    let is_new = create(session, &name)?;
    Ok(Branch { name, is_new })
}

fn new_branch(session: &mut Session) -> Result<Branch, Failure> {
    let mut number = 1_u64;
    loop {
        let name = format!("{PREFIX}{number}");
        if create(session, &name)? {
            return Ok(Branch { name, is_new: true });
        }
        number += 1;
    }
}

/// Makes a branch; not, when there is one of the name.
fn create(session: &mut Session, name: &str) -> Result<bool, Failure> {
    let request = BranchCreate {
        name: name.to_owned(),
        from_branch: String::new(),
        from_snapshot: String::new(),
    };
    match session.call(request) {
        Ok(_) => Ok(true),
        Err(CallError::Refused(error)) if error.code == Code::EXISTS => Ok(false),
        Err(error) => Err(Failure::Call(name.to_owned(), error)),
    }
}

/// The names of all branches.
fn branches(session: &mut Session) -> Result<Vec<String>, Failure> {
    Ok(all_branches(session)?
        .into_iter()
        .map(|it| it.name)
        .collect())
}

/// The last change of a branch, if there is one of this name.
fn branch_seq(session: &mut Session, name: &str) -> Result<Option<u64>, Failure> {
    let all = all_branches(session)?;
    Ok(all.into_iter().find(|it| it.name == name).map(|it| it.seq))
}

fn all_branches(session: &mut Session) -> Result<Vec<BranchInfo>, Failure> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let page = session.call(BranchList { after })?;
        after = page.branches.last().map_or(after, |it| it.id);
        all.extend(page.branches);
        if !page.more {
            return Ok(all);
        }
    }
}
