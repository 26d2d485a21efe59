//! `agentfs branch`

use agentfs_proto::message::{
    BranchApply, BranchCreate, BranchDelete, BranchDiff, BranchList, BranchToken, DiffEntry,
    DiffKind, PageNext,
};
use clap::{Args, Subcommand};

use super::output::{Table, time_text};
use super::session::Session;
use super::{Common, Failure, Output};

/// Make, compare and apply branches
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
    Create {
        /// Its name
        name: String,
        /// The branch it starts from
        #[arg(long, value_name = "BRANCH", default_value = "")]
        from: String,
        /// The snapshot it starts from
        #[arg(
            long,
            value_name = "SNAPSHOT",
            default_value = "",
            conflicts_with = "from"
        )]
        from_snapshot: String,
    },
    /// List the branches
    List,
    /// Delete a branch
    Delete {
        /// Its name
        name: String,
    },
    /// Show what a branch changed, parents before children
    Diff {
        /// Its name
        #[arg(default_value = "")]
        name: String,
        /// A branch or snapshot to compare with, instead of what the branch was made from
        #[arg(long, value_name = "NAME", default_value = "")]
        against: String,
    },
    /// Carry the changes of a branch over to the directory below
    Apply {
        /// Its name
        name: String,
        /// Only tell what would be done
        #[arg(long)]
        dry_run: bool,
        /// Also where the host changed what the branch changed
        #[arg(long)]
        force: bool,
    },
    /// Make a token that binds a program to a branch, for $AGENTFS_TOKEN
    Token {
        /// Its name
        #[arg(default_value = "")]
        name: String,
    },
}

pub(crate) fn run(common: &Common, args: BranchArgs, output: &mut Output) -> Result<(), Failure> {
    let mut session = Session::open(common, "")?;
    match args.command {
        BranchCommand::Create {
            name,
            from,
            from_snapshot,
        } => {
            let request = BranchCreate {
                name: name.clone(),
                from_branch: from,
                from_snapshot,
            };
            let created = session
                .call(request)
                .map_err(|error| Failure::Call(name.clone(), error))?;
            if output.is_json() {
                return output.json(&created);
            }
            output.line(format_args!("branch {name} is number {}", created.id))
        }
        BranchCommand::List => list(&mut session, output),
        BranchCommand::Delete { name } => {
            let done = session
                .call(BranchDelete { name: name.clone() })
                .map_err(|error| Failure::Call(name, error))?;
            if output.is_json() {
                output.json(&done)
            } else {
                Ok(())
            }
        }
        BranchCommand::Diff { name, against } => diff(&mut session, name, against, output),
        BranchCommand::Apply {
            name,
            dry_run,
            force,
        } => apply(
            &mut session,
            BranchApply {
                name,
                dry_run,
                force,
            },
            output,
        ),
        BranchCommand::Token { name } => {
            let made = session.call(BranchToken { name })?;
            if output.is_json() {
                output.json(&serde_json::json!({ "token": made.token.to_string() }))
            } else {
                output.line(made.token)
            }
        }
    }
}

fn list(session: &mut Session, output: &mut Output) -> Result<(), Failure> {
    let mut branches = Vec::new();
    loop {
        let after = branches
            .last()
            .map_or(0, |branch: &agentfs_proto::message::BranchInfo| branch.id);
        let page = session.call(BranchList { after })?;
        branches.extend(page.branches);
        if !page.more {
            break;
        }
    }
    if output.is_json() {
        return output.json(&branches);
    }
    let mut table = Table::new(&["ID", "NAME", "FROM", "EVENTS", "MADE (UTC)"]);
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
        ]);
    }
    output.line(table)
}

fn diff(
    session: &mut Session,
    name: String,
    against: String,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut page = session.call(BranchDiff { name, against })?;
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
        page = session.call(PageNext { page: page.next })?;
    }
    if output.is_json() {
        output.json(&all)
    } else {
        Ok(())
    }
}

/// `A /path`, as version control systems show it.
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

fn apply(session: &mut Session, request: BranchApply, output: &mut Output) -> Result<(), Failure> {
    let (dry_run, force) = (request.dry_run, request.force);
    let applied = session.call(request)?;
    let is_refused = applied.conflict_count > 0 && !force && !dry_run;
    if output.is_json() {
        output.json(&applied)?;
    } else {
        for path in &applied.conflicts {
            output.line(format_args!("conflict {path}"))?;
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
        let verb = if dry_run { "would take" } else { "took" };
        if !is_refused {
            output.line(format_args!("{verb} {} steps", applied.step_count))?;
            if applied.too_deep_count > 0 {
                output.line(format_args!(
                    "{} changes lie deeper than a path can lead (4,095 bytes) and stay in the branch",
                    applied.too_deep_count
                ))?;
            }
        }
    }
    if is_refused {
        let count = applied.conflict_count;
        return Err(Failure::Other(format!(
            "the host changed {count} paths that the branch changed too, so nothing was applied; \
             look at them, then use --force to take the branch's side"
        )));
    }
    Ok(())
}
