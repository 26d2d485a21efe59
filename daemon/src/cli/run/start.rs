//! The daemon of a project: found, or started.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agentfs_proto::client::{CallError, ConnectError};
use agentfs_proto::message::Status;
use agentfs_proto::socket::{self, SOCKET_VARIABLE};

use clap::ValueEnum as _;
use clap::builder::PossibleValue;
use rustix::fs::OFlags;

use super::BRANCH_VARIABLE;
use crate::cli::session::Session;
use crate::cli::{Common, Failure};
use crate::server::EchoMode;

/// This program, also when its file was replaced meanwhile.
pub(super) const PROGRAM: &str = "/proc/self/exe";
/// A daemon that ends just when it is found is started anew.
const ATTEMPTS: usize = 5;

/// A daemon over the project.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) socket: PathBuf,
    pub(super) session: Session,
}

/// Finds the daemon over a project, or starts it: at the socket that was named, else at the default
/// one, else, when that is another project's, at one of the project's own.
pub(super) fn find_or_start(
    common: &Common,
    project: &Path,
    echo: EchoMode,
) -> Result<Found, Failure> {
    let is_named = common.socket.is_some()
        || std::env::var_os(SOCKET_VARIABLE).is_some_and(|it| !it.is_empty());
    let socket = common.socket.clone().unwrap_or_else(socket::default_path);
    let socket = std::path::absolute(socket).map_err(Failure::Input)?;
    let mut session = connect_or_start(common, &socket, project, echo)?;
    let lower = session.call(Status { after: 0 })?.lower;
    if lower.as_path() == project {
        return Ok(Found { socket, session });
    }
    if is_named {
        let theirs = lower.as_path().display();
        return Err(Failure::Other(format!(
            "the daemon at {} is over {theirs:?}, and not over {}; name another socket",
            socket.display(),
            project.display()
        )));
    }
    drop(session);
    let mut hash = DefaultHasher::new();
    project.hash(&mut hash);
    let socket = socket.with_file_name(format!("project-{:016x}.sock", hash.finish()));
    let session = connect_or_start(common, &socket, project, echo)?;
    Ok(Found { socket, session })
}

fn connect_or_start(
    common: &Common,
    socket: &Path,
    project: &Path,
    echo: EchoMode,
) -> Result<Session, Failure> {
    socket::prepare(socket).map_err(|error| Failure::Other(error.to_string()))?;
    let resolved = socket.parent().and_then(|it| it.canonicalize().ok());
    if resolved.is_some_and(|it| it.starts_with(project)) {
        return Err(Failure::Other(format!(
            "the control socket {} would be hidden by the branch; name one outside of {} in \
             {SOCKET_VARIABLE}",
            socket.display(),
            project.display()
        )));
    }
    let common = Common {
        json: common.json,
        socket: Some(socket.to_owned()),
    };
    for _ in 0..ATTEMPTS {
        match Session::open(&common, "") {
            Err(Failure::Connect(
                ConnectError::NoDaemon(_) | ConnectError::Handshake(CallError::Closed),
            )) => start(socket, project, echo)?,
            other => return other,
        }
    }
    Session::open(&common, "")
}

/// Starts a daemon and waits until it listens, or says that another one does.
fn start(socket: &Path, project: &Path, echo: EchoMode) -> Result<(), Failure> {
    let echo = echo.to_possible_value();
    let log = socket.with_extension("log");
    let failed = |error| Failure::Other(format!("{}: {error}", log.display()));
    let mut options = File::options();
    options.append(true).create(true).mode(0o600);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let errors = options.open(&log).map_err(failed)?;
    let mut child = Command::new(PROGRAM)
        .arg0("agentfs")
        .args(["daemon", "--until-unused", "--lower"])
        .arg(project)
        .arg("--socket")
        .arg(socket)
        .arg("--echo")
        .arg(echo.as_ref().map_or("auto", PossibleValue::get_name))
        .env_remove("LD_PRELOAD")
        .env_remove("AGENTFS_TOKEN")
        .env_remove("NOTIFY_SOCKET")
        .env_remove(BRANCH_VARIABLE)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .map_err(|error| Failure::Other(format!("the daemon cannot be started: {error}")))?;
    let mut ready = [0];
    let said = match &mut child.stdout {
        Some(output) => output.read(&mut ready).map_err(failed)?,
        None => 0,
    };
    if said > 0 {
        // It is on its own from now on.
        return Ok(());
    }
    child.wait().map_err(failed)?;
    let is_there = std::os::unix::net::UnixStream::connect(socket).is_ok();
    if is_there {
        // Another run was quicker.
        return Ok(());
    }
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let why = text.lines().next_back().unwrap_or("it says nothing");
    Err(Failure::Other(format!(
        "the daemon does not start: {why} (all of it is in {})",
        log.display()
    )))
}
