//! `agentfs snapshot`: snapshots are made, listed, restored and deleted.

use agentfs_proto::message::{
    SnapshotCreate, SnapshotDelete, SnapshotInfo, SnapshotList, SnapshotRestore,
};
use clap::{Args, Subcommand};

use crate::common::Common;
use crate::output::failure::Failure;
use crate::output::{Output, Table, time_text};
use crate::project::connection::DaemonConnection;
use crate::project::freezing::{self, ExcludeArgs};

/// Freeze the state of a branch, to return to it later
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs snapshot create before-lunch
  agentfs snapshot restore before-lunch --branch attempt-1
  agentfs snapshot list")]
pub(crate) struct SnapshotArgs {
    /// The branch, instead of the one of the run or the mount that you are in,
    /// or else main
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    branch: String,
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// Freeze the branch as it is now
    ///
    /// Without --full, what the branch has not changed is not in the snapshot: there it shows the project
    /// as it is at any time.
    #[command(after_help = "Examples:
  agentfs snapshot create before-lunch --branch attempt-1
  agentfs snapshot create release --full --exclude target/")]
    Create {
        /// The snapshot's name
        name: String,
        /// Hold everything that the branch shows, and not only what it changed. Restoring the snapshot
        /// then brings all of it back, whatever has happened to the project since, and makes the branch
        /// frozen
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        exclude: ExcludeArgs,
    },
    /// List the snapshots of all branches
    #[command(after_help = "Examples:\n  agentfs snapshot list\n  agentfs snapshot list --json")]
    List,
    /// Return the branch to a snapshot; watchers are notified of each difference
    #[command(after_help = "Example:\n  agentfs snapshot restore before-lunch --branch attempt-1")]
    Restore {
        /// Its name or number
        snapshot: String,
    },
    /// Delete a snapshot
    #[command(after_help = "Example:\n  agentfs snapshot delete before-lunch")]
    Delete {
        /// Its name or number
        snapshot: String,
    },
}

pub(crate) fn run(common: &Common, args: SnapshotArgs, output: &mut Output) -> Result<(), Failure> {
    let mut connection = match &args.command {
        SnapshotCommand::List => DaemonConnection::open_to_look(common, "")?,
        SnapshotCommand::Create { .. }
        | SnapshotCommand::Restore { .. }
        | SnapshotCommand::Delete { .. } => DaemonConnection::open(common, "")?,
    };
    let branch = args.branch;
    let in_branch = connection.in_branch(&branch);
    let (done, what) = match args.command {
        SnapshotCommand::Create {
            name,
            full,
            exclude,
        } => {
            let exclude = exclude.with(&freezing::settings(&connection)?, ("--full", full))?;
            let request = SnapshotCreate {
                name: name.clone(),
                branch,
                full,
                exclude,
            };
            let made = freezing::call(&mut connection, request, output.is_json())
                .map_err(|error| Failure::Call(name.clone(), error))?;
            if output.is_json() {
                return output.json(&connection.with_project(made));
            }
            let id = made.id;
            return output.line(format_args!(
                "snapshot {name} is number {id}, made{in_branch}"
            ));
        }
        SnapshotCommand::List => return list(&mut connection, output),
        SnapshotCommand::Restore { snapshot } => {
            let about = snapshot.clone();
            let what = format!("restored snapshot {snapshot}{in_branch}");
            let done = connection
                .call(SnapshotRestore { snapshot, branch })
                .map_err(|error| Failure::Call(about, error))?;
            (done, what)
        }
        SnapshotCommand::Delete { snapshot } => {
            let about = snapshot.clone();
            let what = format!("deleted snapshot {snapshot}{}", connection.of_project());
            let done = connection
                .call(SnapshotDelete { snapshot })
                .map_err(|error| Failure::Call(about, error))?;
            (done, what)
        }
    };
    if output.is_json() {
        output.json(&connection.with_project(done))
    } else {
        output.line(what)
    }
}

fn list(connection: &mut DaemonConnection, output: &mut Output) -> Result<(), Failure> {
    let mut snapshots: Vec<SnapshotInfo> = Vec::new();
    loop {
        let after = snapshots.last().map_or(0, |snapshot| snapshot.id);
        let page = connection.call(SnapshotList { after })?;
        snapshots.extend(page.snapshots);
        if !page.more {
            break;
        }
    }
    if output.is_json() {
        let all = snapshots.iter().map(|it| connection.with_project(it));
        return output.json(&all.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["ID", "NAME", "BRANCH", "MADE (UTC)"]);
    for it in snapshots {
        let made = time_text(i64::try_from(it.created_ns).unwrap_or(i64::MAX));
        table.row([it.id.to_string(), it.name, it.branch.to_string(), made]);
    }
    output.line(table)
}
