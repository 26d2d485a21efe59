//! Finds the daemon of a project, or starts one.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use agentfs_client::ConnectError;
use agentfs_proto::message::ProjectPlace;
use agentfs_proto::socket::{self, SOCKET_VARIABLE};

use clap::ValueEnum as _;
use clap::builder::PossibleValue;
use rustix::fs::OFlags;

use super::next_daemon::is_gone;
use super::root::is_in_place;
use crate::common::Common;
use crate::echo_mode::Echo;
use crate::environment::BRANCH_VARIABLE;
use crate::output::failure::Failure;
use crate::project::connection::DaemonConnection;
use crate::project::store::StoreArgs;
use crate::project::{self, Found, Identity};

/// This program, even if its file was replaced since it started.
pub(super) const PROGRAM: &str = "/proc/self/exe";
/// How often a daemon that ends just when it is found is started again.
const ATTEMPTS: usize = 5;

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) echo: Echo,
    pub(super) keeping: StoreArgs,
}

/// Starts a daemon over a project whose branches are in its store, for a command that asks for them.
pub(crate) fn start_for_command(socket: &Path, project: &Path) -> Result<(), Failure> {
    socket::prepare(socket).map_err(|error| Failure::Other(error.to_string()))?;
    let options = Options {
        echo: Echo::Auto,
        keeping: StoreArgs::default(),
    };
    start(socket, project, &options)
}

/// Finds the daemon over a project, or starts it at the project's own socket.
///
/// A socket that the user or the environment names is used as it is, but its daemon must have the project.
pub(super) fn find_or_start(
    common: &Common,
    project: &Path,
    options: &Options,
) -> Result<DaemonConnection, Failure> {
    if let Some(socket) = common.named_socket() {
        let connection = connect_or_start(&socket, project, options)?;
        return require(connection, project);
    }
    for _ in 0..ATTEMPTS {
        let identity = identity_of(project)?;
        let found = match project::search(project)? {
            Found::Over(daemon) if is_in_place(&daemon) && daemon.has(identity) => daemon.socket,
            // The daemon that was found has a directory above, or one that was moved.
            Found::Over(_) | Found::Named(_) | Found::Mounted(..) | Found::Nothing(_) => {
                project::socket_for(project, identity)
            }
        };
        let connection = connect_or_start(&found, project, options)?;
        // Otherwise the directory was replaced while the daemon was looked for.
        if is_over(&connection, identity) {
            return Ok(connection);
        }
    }
    Err(Failure::Other(format!(
        "{} is replaced by another directory again and again",
        project.display()
    )))
}

fn identity_of(project: &Path) -> Result<Identity, Failure> {
    Identity::of(project).map_err(|error| Failure::directory(project, &error))
}

fn is_over(connection: &DaemonConnection, identity: Identity) -> bool {
    let (device, inode) = (connection.project.device, connection.project.inode);
    connection.project.place == ProjectPlace::InPlace && Identity { device, inode } == identity
}

fn require(connection: DaemonConnection, project: &Path) -> Result<DaemonConnection, Failure> {
    if is_over(&connection, identity_of(project)?) {
        return Ok(connection);
    }
    Err(Failure::Other(format!(
        "the daemon at {} is over {}, and not over {}; name another socket",
        connection.socket.display(),
        project::describe(&connection.project),
        project.display()
    )))
}

fn connect_or_start(
    socket: &Path,
    project: &Path,
    options: &Options,
) -> Result<DaemonConnection, Failure> {
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
    for _ in 0..ATTEMPTS {
        match DaemonConnection::connect(socket, String::new()) {
            Err(Failure::Connect(ConnectError::NoDaemon(_))) => start(socket, project, options)?,
            // It has ended since it was connected to.
            Err(failure) if is_gone(&failure) => start(socket, project, options)?,
            other => return other,
        }
    }
    DaemonConnection::connect(socket, String::new())
}

/// Starts a daemon and waits until it listens, or says that another one does.
fn start(socket: &Path, project: &Path, options: &Options) -> Result<(), Failure> {
    let echo = options.echo.to_possible_value();
    let log = socket.with_extension("log");
    let failed = |error| Failure::Other(format!("{}: {error}", log.display()));
    let mut opened = File::options();
    opened.append(true).create(true).mode(0o600);
    opened.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let errors = opened.open(&log).map_err(failed)?;
    let mut command = Command::new(PROGRAM);
    command
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
        .stderr(errors);
    if options.keeping.in_memory {
        command.arg("--in-memory");
    }
    if let Some(store) = &options.keeping.store {
        let store = std::path::absolute(store).unwrap_or_else(|_| store.clone());
        command.arg("--store").arg(store);
    }
    let mut child = command
        .spawn()
        .map_err(|error| Failure::Other(format!("the daemon cannot be started: {error}")))?;
    let mut ready = [0];
    let said = match &mut child.stdout {
        Some(output) => output.read(&mut ready).map_err(failed)?,
        None => 0,
    };
    if said > 0 {
        // The daemon listens, and is on its own from now on.
        return Ok(());
    }
    child.wait().map_err(failed)?;
    let is_there = std::os::unix::net::UnixStream::connect(socket).is_ok();
    if is_there {
        // Another run was quicker to start one.
        return Ok(());
    }
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let why = text.lines().next_back().unwrap_or("it says nothing");
    Err(Failure::Other(format!(
        "the daemon does not start: {why} (all of it is in {})",
        log.display()
    )))
}
