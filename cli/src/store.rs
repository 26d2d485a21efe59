//! `agentfs store`: where the branches are kept, what they take, and whether that is sound.

use std::path::{Path, PathBuf};

use agentfs_client::ConnectError;
use agentfs_core::{ConfigError, FsConfig, FsCore, Overlay, StoreError};
use agentfs_daemon::is_base_name;
use agentfs_export::command::quoted;
use agentfs_proto::message::{Store, StoreAction, StoreReport};
use clap::{Args, Subcommand};

use crate::common::Common;
use crate::output::Output;
use crate::output::failure::Failure;
use crate::platform;
use crate::project::connection::DaemonConnection;
use crate::project::size::limit;
use crate::project::{Found, store};

/// Show, check or compact the store in which a project's branches are kept
///
/// The store outlives the daemon: work in it survives a crash or SIGKILL of the daemon, and what was
/// synced survives a power cut. Its default place is $XDG_STATE_HOME/agentfs/projects (or
/// ~/.local/state/agentfs/projects).
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs store show                      where the work of this project is, and what it takes
  agentfs store check && echo sound
  agentfs store compact                   give room back to the disk")]
pub(crate) struct StoreCommandArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Show where the store is, its size, and what is in it
    #[command(
        after_help = "Examples:\n  agentfs store show\n  agentfs store show --json | jq -r .store"
    )]
    Show {
        /// The store is this directory, instead of the one of the project
        #[arg(long, value_name = "DIR")]
        store: Option<PathBuf>,
    },
    /// Read the store as a restart would, and print each defect; the exit status is 1 if there is one
    ///
    /// A store that a daemon has is not read: the daemon says whether its disk has failed.
    #[command(
        after_help = "Examples:\n  agentfs store check\n  agentfs store check --store /mnt/backup/project"
    )]
    Check {
        /// The store is this directory, instead of the one of the project
        #[arg(long, value_name = "DIR")]
        store: Option<PathBuf>,
    },
    /// Write the branches into one checkpoint, and give what is free back to the disk
    ///
    /// The daemon does this by itself now and then. If none runs, one is started.
    #[command(after_help = "Example:\n  agentfs store compact")]
    Compact,
    /// Let the store take at most so much of its disk
    ///
    /// It holds until another limit is set, also for later daemons. If none runs, one is started. Writes
    /// beyond the limit fail with ENOSPC; deleting files, branches and snapshots goes on to work.
    #[command(after_help = "Examples:\n  agentfs store limit 20G\n  agentfs store limit none")]
    Limit {
        /// The size, as in 500M or 20G, or `none` for as much as the disk has
        #[arg(value_parser = limit)]
        size: u64,
    },
}

/// What is printed of a store.
#[derive(Debug, serde::Serialize)]
struct Shown {
    #[serde(serialize_with = "as_text")]
    store: PathBuf,
    /// The process of the daemon that has it.
    daemon: Option<u32>,
    /// Bytes that the directory takes on its disk.
    size: u64,
    branches: u64,
    snapshots: u64,
    content: u64,
    free: u64,
    log: u64,
    /// Bytes that it may take there.
    limit: Option<u64>,
    /// Says that it is nearly full, and what can be done.
    warning: Option<String>,
    defects: Vec<String>,
    /// The command that serves what can be read of a damaged store.
    salvage: Option<String>,
}

/// Writes a path whose name need not be UTF-8.
fn as_text<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

pub(crate) fn run(
    common: &Common,
    args: StoreCommandArgs,
    output: &mut Output,
) -> Result<(), Failure> {
    match args.command {
        StoreCommand::Compact => {
            let mut connection = DaemonConnection::open(common, "")?;
            let shown = ask(&mut connection, StoreAction::Compact, 0)?;
            print(&shown, output)
        }
        StoreCommand::Limit { size } => {
            let mut connection = DaemonConnection::open(common, "")?;
            let shown = ask(&mut connection, StoreAction::Limit, size)?;
            print(&shown, output)
        }
        StoreCommand::Show { store } => print(&look(common, store)?, output),
        StoreCommand::Check { store } => {
            let shown = look(common, store)?;
            print(&shown, output)?;
            let path = shown.store.display();
            match shown.defects.len() {
                0 => Ok(()),
                1 => Err(Failure::Other(format!("the store {path} has a defect"))),
                more => Err(Failure::Other(format!(
                    "the store {path} has {more} defects"
                ))),
            }
        }
    }
}

/// Asks the daemon that runs, or reads the store that none has.
fn look(common: &Common, named: Option<PathBuf>) -> Result<Shown, Failure> {
    if let Some(named) = named {
        return read(&named, true);
    }
    match common.find()? {
        Found::Nothing(others) => {
            let project = others.kept();
            match project.and_then(|it| store::kept_for(&it)) {
                Some(kept) => read(&kept, true),
                None => ask(
                    &mut DaemonConnection::open_running(common)?,
                    StoreAction::Show,
                    0,
                ),
            }
        }
        Found::Named(_) | Found::Over(_) | Found::Mounted(..) => ask(
            &mut DaemonConnection::open_running(common)?,
            StoreAction::Show,
            0,
        ),
    }
}

fn ask(
    connection: &mut DaemonConnection,
    action: StoreAction,
    most: u64,
) -> Result<Shown, Failure> {
    let StoreReport {
        path,
        content,
        free,
        log,
        branches,
        snapshots,
        failure,
        most,
        warning,
        ..
    } = connection.call_long(Store { action, most })?;
    if path.is_empty() {
        let text = "the daemon keeps its branches in memory and has no store; it was started with \
                    --in-memory, or without --lower";
        return Err(Failure::Other(text.to_owned()));
    }
    let store = path.as_path().to_owned();
    Ok(Shown {
        daemon: Some(connection.welcome.daemon_pid),
        size: store::size_of(&store),
        store,
        branches,
        snapshots,
        content,
        free,
        log,
        limit: Some(most).filter(|most| *most > 0),
        warning: Some(warning).filter(|it| !it.is_empty()),
        defects: Some(failure)
            .filter(|it| !it.is_empty())
            .into_iter()
            .collect(),
        salvage: None,
    })
}

/// Reads a store that no daemon has.
fn read(path: &Path, may_wait: bool) -> Result<Shown, Failure> {
    let config = FsConfig {
        overlay: store::project_of(path).map(|lower| Overlay { lower }),
        ..FsConfig::default()
    };
    let checked = match FsCore::check_store(path, config) {
        Err(ConfigError::Store(StoreError::InUse(_))) => {
            let Some((pid, socket)) = store::holder(path) else {
                return Err(Failure::Other(format!(
                    "the store {} is in use by another process",
                    path.display()
                )));
            };
            return match DaemonConnection::connect(&socket, String::new()) {
                Err(Failure::Connect(ConnectError::NoDaemon(_))) if may_wait => {
                    // The daemon is ending.
                    platform::wait_for_end(pid);
                    read(path, false)
                }
                connection => ask(&mut connection?, StoreAction::Show, 0),
            };
        }
        other => other.map_err(|error| Failure::Other(error.to_string()))?,
    };
    let usage = checked.usage;
    let snapshots = checked.snapshots.iter().filter(|it| !is_base_name(it));
    Ok(Shown {
        store: path.to_owned(),
        daemon: None,
        size: store::size_of(path),
        branches: checked.branches.len() as u64,
        snapshots: snapshots.count() as u64,
        content: usage.map_or(0, |it| it.content),
        free: usage.map_or(0, |it| it.free),
        log: usage.map_or(0, |it| it.log),
        limit: usage.and_then(|it| it.most),
        warning: usage.and_then(|it| it.warning()),
        salvage: (!checked.defects.is_empty()).then(|| salvage_command(path)),
        defects: checked.defects,
    })
}

/// Returns the command that serves what can be read of a store.
fn salvage_command(path: &Path) -> String {
    let lower = store::project_of(path).map(|it| format!(" --lower {}", quoted(it.as_os_str())));
    let store = quoted(path.as_os_str());
    format!(
        "agentfs daemon --salvage --store {store}{}",
        lower.unwrap_or_default()
    )
}

fn print(shown: &Shown, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(shown);
    }
    output.line(format_args!("store      {}", shown.store.display()))?;
    match shown.daemon {
        Some(pid) => output.line(format_args!("daemon     process {pid}"))?,
        None => output.line("daemon     none runs")?,
    }
    let Shown {
        size,
        branches,
        snapshots,
        content,
        free,
        log,
        ..
    } = shown;
    output.line(format_args!("on disk    {size} bytes"))?;
    output.line(format_args!("branches   {branches}"))?;
    output.line(format_args!("snapshots  {snapshots}"))?;
    output.line(format_args!(
        "content    {content} bytes, and {free} free between them"
    ))?;
    output.line(format_args!(
        "log        {log} bytes since the last checkpoint"
    ))?;
    if let Some(limit) = shown.limit {
        output.line(format_args!("limit      {limit} bytes on disk"))?;
    }
    if let Some(warning) = &shown.warning {
        output.line(format_args!("warning    {warning}"))?;
    }
    for defect in &shown.defects {
        output.line(format_args!("defect     {defect}"))?;
    }
    if let Some(command) = &shown.salvage {
        output.line(format_args!("to read what is left: {command}"))?;
    }
    Ok(())
}
