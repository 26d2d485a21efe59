//! `agentfs apply`: what a run exported, into the project.

use std::path::PathBuf;

use agentfs_proto::message::DiffKind;
use clap::Args;

use super::{Failure, Output};
use crate::export::{Carried, Mode, carry};

/// Carry exported changes over to the project
///
/// Needs no daemon. Nothing is done when the project was changed at the same places meanwhile, unless
/// it is forced.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs run --export /tmp/attempt -- make
  agentfs apply /tmp/attempt --dry-run
  agentfs apply /tmp/attempt")]
pub(crate) struct ApplyArgs {
    /// What was exported
    dir: PathBuf,
    /// The project, instead of the one the changes are of
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// Also where the project was changed
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: ApplyArgs, output: &mut Output) -> Result<(), Failure> {
    let mode = match (args.dry_run, args.force) {
        (true, _) => Mode::DryRun,
        (false, true) => Mode::Force,
        (false, false) => Mode::Refuse,
    };
    let carried = carry(&args.dir, args.to.as_deref(), mode)
        .map_err(|error| Failure::Other(error.to_string()))?;
    let Carried {
        project,
        changes,
        conflicts,
    } = &carried;
    let is_refused = mode == Mode::Refuse && !conflicts.is_empty();
    if output.is_json() {
        output.json(&serde_json::json!({
            "project": project,
            "changes": changes.iter().map(|(_, path)| path).collect::<Vec<_>>(),
            "conflicts": conflicts,
            "done": mode != Mode::DryRun && !is_refused,
        }))?;
    } else {
        for path in conflicts {
            output.line(format_args!("conflict {path}"))?;
        }
        for (change, path) in changes.iter().filter(|_| !is_refused) {
            output.line(format_args!("{} {path}", letter(*change)))?;
        }
    }
    if is_refused {
        let count = conflicts.len();
        return Err(Failure::Other(format!(
            "{} was changed at {count} of these paths meanwhile, so nothing was done; look at them, \
             then use --force to take the exported side",
            project.display()
        )));
    }
    Ok(())
}

/// As version control systems show it.
pub(crate) fn letter(change: DiffKind) -> char {
    match change {
        DiffKind::Added => 'A',
        DiffKind::Removed => 'D',
        DiffKind::Content => 'M',
        DiffKind::Attributes => 'T',
        DiffKind::Renamed => 'R',
        DiffKind::TooDeep => '!',
    }
}
