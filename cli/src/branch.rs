//! `agentfs branch`: branches are made, compared, applied, exported and deleted.

use std::path::PathBuf;

use agentfs_proto::message::{
    BranchApply, BranchCreate, BranchDelete, BranchDiff, BranchInfo, BranchList, BranchToken,
    DiffEntry, DiffKind, PageNext,
};
use clap::{Args, Subcommand};

use crate::common::Common;
use crate::output::failure::Failure;
use crate::output::{Output, Table, time_text};
use crate::project::connection::DaemonConnection;
use crate::project::export;
use crate::project::freezing::{self, ExcludeArgs};
use crate::project::size::size;

/// Make, compare and apply branches
///
/// A branch shows the project and holds what is changed in it, until that is applied to the project,
/// exported or deleted.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs branch create attempt-1
  agentfs branch create attempt-2 --from-snapshot before-lunch
  agentfs branch diff attempt-1
  agentfs branch apply attempt-1 --dry-run
  agentfs branch delete attempt-1")]
pub(crate) struct BranchArgs {
    #[command(subcommand)]
    command: BranchCommand,
}

#[derive(Debug, Subcommand)]
enum BranchCommand {
    /// Make a branch
    #[command(after_help = "Examples:
  agentfs branch create attempt-1
  agentfs branch create attempt-2 --from attempt-1
  agentfs branch create attempt-3 --from-snapshot before-lunch
  agentfs branch create attempt-4 --frozen
  agentfs branch create attempt-5 --frozen --exclude target/ --exclude '*.log'")]
    Create {
        /// The name of the new branch
        name: String,
        /// Start from this branch as it is now, instead of from the one that you are in, or else main
        #[arg(
            long,
            value_name = "BRANCH",
            default_value = "",
            hide_default_value = true
        )]
        from: String,
        /// Start from this snapshot
        #[arg(
            long,
            value_name = "SNAPSHOT",
            default_value = "",
            hide_default_value = true,
            conflicts_with = "from"
        )]
        from_snapshot: String,
        /// Make it frozen: it shows nothing that happens to the project from now on. Without it, the branch
        /// is live and shows the project as it is at any time, where it has changed nothing
        #[arg(long, conflicts_with = "from_snapshot")]
        frozen: bool,
        /// Let the branch have at most so many bytes of content beside those that it begins with, as in
        /// 500M or 20G. A write beyond fails with EDQUOT, and other branches go on
        #[arg(long, value_name = "SIZE", value_parser = size)]
        max_size: Option<u64>,
        #[command(flatten)]
        exclude: ExcludeArgs,
    },
    /// List the branches
    #[command(
        after_help = "Examples:\n  agentfs branch list\n  agentfs branch list --json | jq .[].name"
    )]
    List,
    /// Delete a branch with everything that was changed in it
    #[command(after_help = "Example:\n  agentfs branch delete attempt-1")]
    Delete {
        /// The name of the branch
        name: String,
        /// Delete it even if the command of a run has ended and what becomes of its changes is still open
        #[arg(long)]
        force: bool,
    },
    /// Write what a branch changed to a new directory, for `agentfs apply DIR`
    #[command(after_help = "Examples:
  agentfs branch export attempt-1
  agentfs branch export attempt-1 /tmp/attempt && agentfs apply /tmp/attempt --dry-run")]
    Export {
        /// The name of the branch
        name: String,
        /// The new directory, instead of one in $XDG_STATE_HOME/agentfs/changes (or
        /// ~/.local/state/agentfs/changes)
        dir: Option<PathBuf>,
    },
    /// Show what a branch changed, parents before children
    ///
    /// A is added, D is removed, M has new content, T has new attributes, R is renamed.
    #[command(after_help = "Examples:
  agentfs branch diff attempt-1
  agentfs branch diff attempt-1 --against attempt-2
  agentfs branch diff attempt-1 --against before-lunch")]
    Diff {
        /// The branch, instead of the one that you are in, or else main
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
        /// Compare with this branch or snapshot, instead of with what the branch was made from
        #[arg(
            long,
            value_name = "NAME",
            default_value = "",
            hide_default_value = true
        )]
        against: String,
    },
    /// Bring the changes of a branch to the project
    ///
    /// Nothing is done when the project was changed at the same paths meanwhile, unless --force is given.
    #[command(after_help = "Examples:
  agentfs branch apply attempt-1 --dry-run
  agentfs branch apply attempt-1")]
    Apply {
        /// The name of the branch
        name: String,
        /// Show what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Take the branch's side where both changed a path. Files that others put into a directory stay
        #[arg(long)]
        force: bool,
    },
    /// Make a token that binds a program to a branch, for $AGENTFS_TOKEN
    ///
    /// For programs that are started otherwise than by `agentfs run` and `agentfs exec`, which make one.
    #[command(after_help = "Example:\n  AGENTFS_TOKEN=$(agentfs branch token attempt-1) ./watcher")]
    Token {
        /// The branch, instead of the one that you are in, or else main
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
    },
}

pub(crate) fn run(common: &Common, args: BranchArgs, output: &mut Output) -> Result<(), Failure> {
    let mut connection = match &args.command {
        BranchCommand::List | BranchCommand::Diff { .. } => {
            DaemonConnection::open_to_look(common, "")?
        }
        BranchCommand::Create { .. }
        | BranchCommand::Delete { .. }
        | BranchCommand::Export { .. }
        | BranchCommand::Apply { .. }
        | BranchCommand::Token { .. } => DaemonConnection::open(common, "")?,
    };
    match args.command {
        BranchCommand::Create {
            name,
            from,
            from_snapshot,
            frozen,
            max_size,
            exclude,
        } => {
            let settings = freezing::settings(&connection)?;
            let frozen = frozen || (settings.frozen && from_snapshot.is_empty());
            let request = BranchCreate {
                name,
                from_branch: from,
                from_snapshot,
                frozen,
                max_size: max_size.unwrap_or(0),
                exclude: exclude.with(&settings, ("--frozen", frozen))?,
            };
            create(&mut connection, request, output)
        }
        BranchCommand::List => list(&mut connection, output),
        BranchCommand::Delete { name, force } => {
            let request = BranchDelete {
                name: name.clone(),
                force,
            };
            let done = connection
                .call(request)
                .map_err(|error| Failure::Call(name.clone(), error))?;
            if output.is_json() {
                return output.json(&connection.with_project(done));
            }
            let of_project = connection.of_project();
            output.line(format_args!("deleted branch {name}{of_project}"))
        }
        BranchCommand::Export { name, dir } => export(&mut connection, &name, dir, output),
        BranchCommand::Diff { name, against } => diff(&mut connection, name, against, output),
        BranchCommand::Apply {
            name,
            dry_run,
            force,
        } => apply(
            &mut connection,
            BranchApply {
                name,
                dry_run,
                force,
            },
            output,
        ),
        BranchCommand::Token { name } => {
            let made = connection.call(BranchToken { name })?;
            if output.is_json() {
                let token = serde_json::json!({ "token": made.token.to_string() });
                output.json(&connection.with_project(token))
            } else {
                output.line(made.token)
            }
        }
    }
}

fn create(
    connection: &mut DaemonConnection,
    request: BranchCreate,
    output: &mut Output,
) -> Result<(), Failure> {
    let name = request.name.clone();
    let created = freezing::call(connection, request, output.is_json())
        .map_err(|error| Failure::Call(name.clone(), error))?;
    if output.is_json() {
        return output.json(&connection.with_project(created));
    }
    let (id, of_project) = (created.id, connection.of_project());
    output.line(format_args!("branch {name} is number {id}{of_project}"))
}

fn export(
    connection: &mut DaemonConnection,
    name: &str,
    directory: Option<PathBuf>,
    output: &mut Output,
) -> Result<(), Failure> {
    let send = |connection: &mut DaemonConnection, request| {
        let written = connection.call_long(request);
        Ok(written?)
    };
    let (directory, written) = export::export(connection, name, directory, send)?;
    if output.is_json() {
        let report = serde_json::json!({
            "directory": directory,
            "changes": written.changes,
            "unread": written.unread,
        });
        output.json(&connection.with_project(report))?;
    } else {
        let (shown, of_project) = (directory.display(), connection.of_project());
        output.line(format_args!(
            "exported branch {name} to {shown}{of_project}"
        ))?;
        let command = export::apply_command(connection, &directory);
        output.line(format_args!("to apply the changes: {command}"))?;
    }
    if written.unread_count == 0 {
        return Ok(());
    }
    let unread = written.unread.iter();
    let listed: Vec<_> = unread
        .map(|it| format!("{}: {}", it.path, it.why))
        .collect();
    Err(Failure::Other(format!(
        "not exported, because it cannot be read: {}; what the branch itself wrote of it is in {}",
        listed.join(", "),
        directory.join("parts").display()
    )))
}

/// Asks for all branches.
pub(crate) fn all(connection: &mut DaemonConnection) -> Result<Vec<BranchInfo>, Failure> {
    let mut branches: Vec<BranchInfo> = Vec::new();
    loop {
        let after = branches.last().map_or(0, |branch| branch.id);
        let page = connection.call(BranchList { after })?;
        branches.extend(page.branches);
        if !page.more {
            return Ok(branches);
        }
    }
}

fn list(connection: &mut DaemonConnection, output: &mut Output) -> Result<(), Failure> {
    let branches = all(connection)?;
    if output.is_json() {
        let all = branches.iter().map(|it| connection.with_project(it));
        return output.json(&all.collect::<Vec<_>>());
    }
    let mut table = Table::new(&["ID", "NAME", "FROM", "EVENTS", "MADE (UTC)", "SHOWS", "RUN"]);
    for branch in branches {
        let from = if branch.parent == 0 {
            "-".to_owned()
        } else {
            branch.parent.to_string()
        };
        let made = time_text(i64::try_from(branch.created_ns).unwrap_or(i64::MAX));
        table.row([
            branch.id.to_string(),
            branch.name,
            from,
            branch.seq.to_string(),
            made,
            if branch.frozen { "frozen" } else { "live" }.to_owned(),
            if branch.run == 0 {
                String::new()
            } else {
                format!("process {}", branch.run)
            },
        ]);
    }
    output.line(table)
}

fn diff(
    connection: &mut DaemonConnection,
    name: String,
    against: String,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut page = connection.call(BranchDiff { name, against })?;
    let mut all = Vec::new();
    loop {
        if output.is_json() {
            all.append(&mut page.entries);
        } else {
            for entry in &page.entries {
                output.line(diff_line(entry))?;
            }
        }
        if page.next == 0 {
            break;
        }
        page = connection.call(PageNext { page: page.next })?;
    }
    if output.is_json() {
        output.json(&all)
    } else {
        Ok(())
    }
}

/// Returns a change as version control systems show it: `A /path`.
pub(crate) fn diff_line(entry: &DiffEntry) -> String {
    let slash = if entry.mode & 0o170_000 == 0o040_000 {
        "/"
    } else {
        ""
    };
    match entry.kind {
        DiffKind::Added => format!("A {}{slash}", entry.path),
        DiffKind::Removed => format!("D {}{slash}", entry.path),
        DiffKind::Content => format!("M {}{slash}", entry.path),
        DiffKind::Attributes => format!("T {}{slash}", entry.path),
        DiffKind::Renamed => format!("R {}{slash} -> {}{slash}", entry.from, entry.path),
        DiffKind::TooDeep => format!("! {} (in here, deeper than a path can lead)", entry.path),
    }
}

fn apply(
    connection: &mut DaemonConnection,
    request: BranchApply,
    output: &mut Output,
) -> Result<(), Failure> {
    let (dry_run, force) = (request.dry_run, request.force);
    let of_project = connection.of_project();
    let name = request.name.clone();
    let applied = connection.call(request)?;
    let is_refused = !applied.is_complete;
    if output.is_json() {
        output.json(&connection.with_project(&applied))?;
    } else {
        for path in &applied.conflicts {
            output.line(format_args!("conflict {path}"))?;
        }
        for path in applied.kept.iter().filter(|_| force) {
            output.line(format_args!("kept {path}"))?;
        }
        if dry_run {
            for step in &applied.steps {
                let to = if step.to.is_empty() {
                    String::new()
                } else {
                    format!(" -> {}", step.to)
                };
                output.line(format_args!("{:10} {}{to}", step.action, step.path))?;
            }
        }
        let verb = if dry_run { "would apply" } else { "applied" };
        if !is_refused {
            let count = applied.step_count;
            let changes = if count == 1 { "change" } else { "changes" };
            output.line(format_args!(
                "{verb} {count} {changes} of branch {name}{of_project}"
            ))?;
            if applied.too_deep_count > 0 {
                output.line(format_args!(
                    "{} changes lie deeper than a path can lead (4,095 bytes) and stay in the branch",
                    applied.too_deep_count
                ))?;
            }
        }
    }
    if is_refused {
        let (count, done) = (applied.conflict_count, applied.step_count);
        if force {
            let command = connection.command();
            return Err(Failure::Other(format!(
                "{count} paths are left out, because the host changed them meanwhile, or after the \
                 branch had changed a part of them; {done} steps were made, and the rest stays in the \
                 branch, from which it is exported with: {command} branch export {name} DIR"
            )));
        }
        let what = match done {
            0 => "so nothing was applied".to_owned(),
            done => format!("so only {done} steps were made, and the rest is still in the branch"),
        };
        return Err(Failure::Other(format!(
            "the host changed {count} paths that the branch changed too, {what}; look at them, then \
             use --force to take the branch's side"
        )));
    }
    Ok(())
}
