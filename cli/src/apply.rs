//! `agentfs apply`: an exported directory is brought to a project.

use std::collections::HashSet;
use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::DiffKind;
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::common::Common;
use crate::output::Output;
use crate::output::failure::Failure;
use agentfs_export::command::{apply_command, quoted};
use agentfs_export::{CancelToken, ExportError, Identity, Imported, Mode, Source, Target, import};

/// Bring exported changes to the project
///
/// Use it to apply a directory that `agentfs run`, `agentfs branch export` or an ending daemon wrote. It
/// needs no daemon.
///
/// The project is the one that --to names, or else the one in which the changes were made, if the current
/// directory is in it; otherwise you are asked on a terminal. Nothing is done when the project was changed
/// at the same paths meanwhile, unless --force is given. All changes are made, or none: if the command is
/// interrupted, the project is as it was, and the command can be given again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs run --export /tmp/attempt -- make
  agentfs apply /tmp/attempt --dry-run
  agentfs apply /tmp/attempt --to ~/project")]
pub(crate) struct ApplyArgs {
    /// The exported directory
    dir: PathBuf,
    /// The project, instead of the one in which the changes were made
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Take the exported side where the project was changed too
    #[arg(long)]
    force: bool,
}

impl ApplyArgs {
    /// Takes the project that is named for all commands as if `--to` named it.
    pub(crate) fn into_project(mut self, common: &Common) -> Self {
        self.to = self.to.or_else(|| common.project.clone());
        self
    }
}

fn failed(error: ExportError) -> Failure {
    Failure::Other(error.to_string())
}

pub(crate) fn run(args: &ApplyArgs, output: &mut Output) -> Result<(), Failure> {
    let mode = match (args.dry_run, args.force) {
        (true, _) => Mode::DryRun,
        (false, true) => Mode::Force,
        (false, false) => Mode::Refuse,
    };
    let source = Source::open(&args.dir).map_err(failed)?;
    let target = target(args, &source, output.is_json())?;
    let io_failed = |error| Failure::directory(target.path(), &error);
    target
        .lock(|| {
            let path = target.path().display();
            notice(&format!("waiting for another apply to {path}"));
        })
        .map_err(io_failed)?;
    // Until here, a signal ends this process and nothing is changed.
    let stop = CancelToken::default();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(stop.flag())).map_err(Failure::Input)?;
    }
    let imported = import(&source, &target, mode, &stop).map_err(failed)?;
    let is_refused = mode == Mode::Refuse && !imported.conflicts.is_empty();
    let is_done = mode != Mode::DryRun && !is_refused;
    if output.is_json() {
        output.json(&serde_json::json!({
            "project": target.path(),
            "changes": imported.changes.iter().map(|(_, path)| path).collect::<Vec<_>>(),
            "made": imported.made.len(),
            "made_before": imported.made_before,
            "conflicts": imported.conflicts,
            "unread": source.unread(),
            "done": is_done && imported.failures.is_empty(),
        }))?;
    } else {
        let shown = match (is_refused, is_done) {
            (true, _) => &[][..],
            (false, true) => &imported.made,
            (false, false) => &imported.changes,
        };
        show(&source, &imported, shown, output)?;
    }
    result(args, &source, &target, &imported, is_refused)
}

fn show(
    source: &Source,
    imported: &Imported,
    shown: &[(DiffKind, Bytes)],
    output: &mut Output,
) -> Result<(), Failure> {
    for path in &imported.conflicts {
        output.line(format_args!("conflict {path}"))?;
    }
    // A file that replaced another one is one change.
    let removed = shown.iter().filter(|it| it.0 == DiffKind::Removed);
    let removed: HashSet<&Bytes> = removed.map(|(_, path)| path).collect();
    let added = shown.iter().filter(|it| it.0 == DiffKind::Added);
    let replaced: HashSet<&Bytes> = added.map(|(_, path)| path).collect();
    for (change, path) in shown {
        if *change == DiffKind::Removed && replaced.contains(path) {
            continue;
        }
        let is_replacing = *change == DiffKind::Added && removed.contains(path);
        let change = if is_replacing {
            DiffKind::Content
        } else {
            *change
        };
        output.line(format_args!("{} {path}", letter(change)))?;
    }
    for unread in source.unread() {
        let parts = unread.parts.as_ref().map_or_else(String::new, |parts| {
            let parts = source.path().join(parts.as_path());
            format!("; what the branch wrote of it is in {}", parts.display())
        });
        notice(&format!(
            "{} is left out: {}{parts}",
            unread.path, unread.why
        ));
    }
    if imported.changes.is_empty() && imported.conflicts.is_empty() && imported.made_before > 0 {
        output.line("already applied")?;
    }
    Ok(())
}

fn result(
    args: &ApplyArgs,
    source: &Source,
    target: &Target,
    imported: &Imported,
    is_refused: bool,
) -> Result<(), Failure> {
    let command = apply_command(&args.dir, target.path());
    if is_refused {
        let count = imported.conflicts.len();
        return Err(Failure::Other(format!(
            "{} was changed at {count} of these paths meanwhile, so nothing was done; look at them, \
             then take the exported side with: {command} --force",
            target.path().display()
        )));
    }
    let Some((last, others)) = imported.failures.split_last() else {
        return left_out(source);
    };
    for failure in others {
        notice(&failure.to_string());
    }
    let command = if args.force {
        format!("{command} --force")
    } else {
        command
    };
    let (made, all) = (imported.made.len(), imported.changes.len());
    Err(Failure::Other(if made == 0 {
        format!("{last}; nothing was changed, do it again with: {command}")
    } else {
        format!("{last}; {made} of {all} changes are made, and the others are made by: {command}")
    }))
}

/// Fails when files could not be exported: the project does not have all changes of the branch.
fn left_out(source: &Source) -> Result<(), Failure> {
    match source.unread().len() {
        0 => Ok(()),
        count => Err(Failure::Other(format!(
            "{count} changed files could not be read when this was exported, and are left out"
        ))),
    }
}

/// Returns the directory that the changes are for, which the user named or agrees to.
fn target(args: &ApplyArgs, source: &Source, json: bool) -> Result<Target, Failure> {
    let open = |path: &Path| Target::open(path).map_err(|error| Failure::directory(path, &error));
    if let Some(to) = &args.to {
        return open(to);
    }
    let project = source.list.project.as_path();
    let command = apply_command(&args.dir, project);
    if project.as_os_str().is_empty() {
        let text = format!("the changes are of no directory of the host; name one: {command}");
        return Err(Failure::Other(text));
    }
    let target = open(project)?;
    let identity = target
        .identity()
        .map_err(|error| Failure::directory(project, &error))?;
    if source.list.identity.is_some_and(|it| it != identity) {
        return Err(Failure::Other(format!(
            "{} is another directory than the one that the changes are of; if they are for this one, \
             say so: {command}",
            project.display()
        )));
    }
    let is_agreed = args.dry_run || is_here(identity) || (!json && ask(args, project)?);
    if is_agreed {
        return Ok(target);
    }
    Err(Failure::Other(format!(
        "the changes are of {}, which is not the current directory; apply them there with: {command}",
        project.display()
    )))
}

/// Returns whether the current directory is this one or below it.
fn is_here(identity: Identity) -> bool {
    let Ok(here) = std::env::current_dir() else {
        return false;
    };
    let is_it = |directory: &Path| {
        let found = fs::metadata(directory);
        found.is_ok_and(|it| (it.dev(), it.ino()) == (identity.dev, identity.ino))
    };
    here.ancestors().any(is_it)
}

fn ask(args: &ApplyArgs, project: &Path) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(false);
    }
    let (dir, project) = (quoted(&args.dir), project.display());
    let mut errors = io::stderr();
    write!(errors, "agentfs: apply {dir} to {project}? [y/N] ")
        .and_then(|()| errors.flush())
        .map_err(Failure::Output)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(Failure::Input)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Prints a notice on standard error.
fn notice(text: &str) {
    // Nothing is left to report to when this fails.
    drop(writeln!(io::stderr(), "agentfs: {text}"));
}

/// Returns the letter by which version control systems show a change.
fn letter(change: DiffKind) -> char {
    match change {
        DiffKind::Added => 'A',
        DiffKind::Removed => 'D',
        DiffKind::Content => 'M',
        DiffKind::Attributes => 'T',
        DiffKind::Renamed => 'R',
        DiffKind::TooDeep => '!',
    }
}
