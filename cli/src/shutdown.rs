//! `agentfs shutdown`: the daemon exports what branches changed, and ends.

use std::time::Duration;

use agentfs_client::{CallError, Deadline};
use agentfs_proto::message::{Code, Saved, Shutdown};
use clap::Args;

use crate::common::Common;
use crate::output::Output;
use crate::output::failure::Failure;
use crate::platform;
use crate::project::connection::DaemonConnection;
use crate::project::export;
use agentfs_daemon::SAVING;

/// How long the daemon may take for its answer: as long as it may export, and somewhat longer.
const PATIENCE: Duration = SAVING.saturating_add(Duration::from_secs(25));

/// End the daemon; what the branches changed stays in the store
///
/// The next `agentfs run`, or another command for the project, starts a daemon that has the branches and
/// snapshots again.
///
/// A daemon that keeps its branches in memory (--in-memory) first exports what they changed. Each branch that has changes is exported to $XDG_STATE_HOME/agentfs/changes (or
/// ~/.local/state/agentfs/changes), and the command that applies it is printed. If a branch cannot be
/// exported, the daemon does not end. Snapshots are not exported.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs shutdown --reason upgrade
  agentfs shutdown --discard              throw away what branches in memory changed")]
pub(crate) struct ShutdownArgs {
    /// The reason, for the daemon's log
    #[arg(long, default_value = "asked to")]
    reason: String,
    /// Throw the changes of all branches away instead of exporting them, if they are in memory
    #[arg(long)]
    discard: bool,
}

pub(crate) fn run(common: &Common, args: ShutdownArgs, output: &mut Output) -> Result<(), Failure> {
    let mut connection = DaemonConnection::open_running(common)?;
    let pid = connection.welcome.daemon_pid;
    let kept = connection.store()?;
    let request = Shutdown {
        reason: args.reason,
        discard: args.discard,
    };
    // The commands that apply the changes name the place where the project is now.
    connection.look_again()?;
    let deadline = Deadline::after(PATIENCE);
    let ending = match connection.client.call(request, deadline) {
        Err(CallError::Refused(error)) if error.code == Code::RESOURCES => {
            let command = connection.command();
            return Err(Failure::Other(format!(
                "{error}; to throw the changes of all its branches away: {command} shutdown --discard"
            )));
        }
        other => other?,
    };
    // The next command may need the store at once.
    platform::wait_for_end(pid);
    let project = ending.lower.as_path();
    if output.is_json() {
        let saved = ending.saved.iter().map(|it| {
            serde_json::json!({
                "branch": it.branch,
                "directory": it.path,
                "changes": it.exported.changes,
                "unread": it.exported.unread,
                "apply": export::apply_command(&connection, it.path.as_path()),
            })
        });
        return output.json(&serde_json::json!({
            "ended": pid,
            "project": project,
            "store": kept.map(|it| it.display().to_string()),
            "exported": saved.collect::<Vec<_>>(),
            "exported_count": ending.saved_count,
        }));
    }
    for saved in &ending.saved {
        let Saved {
            branch,
            path,
            exported,
        } = saved;
        let changes = match exported.changes {
            1 => "1 change".to_owned(),
            more => format!("{more} changes"),
        };
        output.line(format_args!("{branch}: {changes} exported to {path}"))?;
        for unread in &exported.unread {
            let why = &unread.why;
            output.line(format_args!("  {} cannot be read: {why}", unread.path))?;
        }
        let command = export::apply_command(&connection, path.as_path());
        output.line(format_args!("  to apply them: {command}"))?;
    }
    let more = ending.saved_count - (ending.saved.len() as u64).min(ending.saved_count);
    if more > 0 {
        output.line(format_args!("and {more} more branches, beside these"))?;
    }
    let of_project = connection.of_project();
    if let Some(store) = kept {
        let store = store.display();
        output.line(format_args!(
            "what the branches hold stays in the store {store}"
        ))?;
    }
    output.line(format_args!("ended the daemon (process {pid}){of_project}"))
}
