//! Finishes a run: shows what changed, and does with the changes what the user wants. Nothing is lost:
//! what is not applied is exported or stays with the daemon, and this command prints where.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use agentfs_client::CallError;
use agentfs_proto::message::{
    BranchApply, BranchRetire, Code, DiffEntry, DiffKind, MountInfo, MountWait, ProjectPlace,
    Unread,
};
use clap::Args;

use super::changes::changes_of;
use super::next_daemon::{self, is_gone};
use super::processes::{self, MountProcess};
use super::{daemon_exit, hold, interruptible, leftovers, supervise};
use crate::branch::diff_line;
use crate::output::failure::Failure;
use crate::project::connection::DaemonConnection;
use crate::project::export;
use crate::{mount, platform};

/// How many changes are listed.
const LISTED: usize = 40;
/// How long the kernel may take to end a mount that no process uses.
const MOUNT_END_MS: u32 = 5_000;

/// What becomes of the changes.
#[derive(Clone, Debug, Default, Args)]
#[group(id = "finish", multiple = false)]
pub(crate) struct FinishArgs {
    /// At the end, apply the changes to the project; if it was changed at the same paths, export them
    #[arg(long)]
    apply: bool,
    /// At the end, throw the changes away
    #[arg(long)]
    discard: bool,
    /// At the end, write the changes to a new directory, for `agentfs apply DIR`
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
    /// At the end, leave the changes in the branch, for `agentfs branch`
    #[arg(long)]
    keep: bool,
}

/// What the user wants done with the changes.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    Apply,
    Discard,
    Export(Option<PathBuf>),
    Keep,
}

/// A run whose command has ended.
pub(super) struct Finish<'a> {
    pub(super) json: bool,
    pub(super) connection: &'a mut DaemonConnection,
    pub(super) branch: &'a str,
    pub(super) is_new: bool,
    pub(super) project: &'a Path,
    /// When the run began.
    pub(super) since: SystemTime,
    /// Where the branch is kept; `None` when it is in memory.
    pub(super) store: Option<PathBuf>,
    /// What is to be done with the changes, once that is known. The daemon may end before it is done.
    pub(super) decided: Option<(Choice, Vec<DiffEntry>)>,
    /// Connects to a daemon over the project, which is started if none runs.
    pub(super) restart: &'a dyn Fn() -> Result<DaemonConnection, Failure>,
}

/// What was done with the changes.
#[derive(Debug)]
struct Outcome {
    word: &'static str,
    directory: Option<PathBuf>,
    conflicts: Vec<String>,
    /// Files that could not be exported.
    unread: Vec<Unread>,
    /// Whether that is what the user wanted.
    is_wanted: bool,
}

impl Outcome {
    fn of(word: &'static str) -> Self {
        Self {
            word,
            directory: None,
            conflicts: Vec::new(),
            unread: Vec::new(),
            is_wanted: true,
        }
    }

    /// Returns whether some of the changes are in the branch only.
    fn is_partial(&self, changes: &[DiffEntry]) -> bool {
        let is_carried = matches!(self.word, "applied" | "exported");
        !self.unread.is_empty() || (is_carried && changes.iter().any(is_too_deep))
    }
}

fn is_too_deep(change: &DiffEntry) -> bool {
    change.kind == DiffKind::TooDeep
}

impl Finish<'_> {
    /// Shows the changes and does with them what the user wants. Returns whether that was possible.
    pub(super) fn run(mut self, args: FinishArgs) -> Result<bool, Failure> {
        self.connection.is_quiet = self.json;
        self.warn_of_full_store();
        let mut finished = self.with_daemon(&args);
        for _ in 0..next_daemon::MOST {
            if self.store.is_none() || !finished.as_ref().is_err_and(is_gone) {
                break;
            }
            platform::wait_for_end(self.connection.welcome.daemon_pid);
            finished = self.reconnect().and_then(|()| self.with_daemon(&args));
        }
        match finished {
            Err(failure) if is_gone(&failure) => self.without_daemon(),
            // The text says where the changes are.
            Err(failure @ Failure::Other(_)) => Err(failure),
            Err(failure) => Err(export::kept(
                self.connection,
                self.branch,
                &failure.to_string(),
            )),
            Ok(is_finished) => Ok(is_finished),
        }
    }

    /// Says that the store is nearly full. A daemon that is gone says nothing.
    fn warn_of_full_store(&mut self) {
        let report = self.connection.store_report();
        if let Some(report) = report.ok().filter(|it| !it.warning.is_empty()) {
            self.notice(&format!("agentfs: {}", report.warning));
        }
    }

    /// Goes on with a new daemon, which has the branch out of the store.
    fn reconnect(&mut self) -> Result<(), Failure> {
        let branch = self.branch;
        let store = self.store.as_deref();
        let next = store.and_then(|store| next_daemon::wait_for(store, &*self.connection));
        let connection = next.map_or_else(self.restart, Ok);
        let connection = connection.map_err(|failure| match &self.store {
            Some(store) => Failure::Other(format!(
                "the daemon ended during the run, and no other one starts: {failure}; what {branch} \
                 changed is in the store {}",
                store.display()
            )),
            None => failure,
        })?;
        *self.connection = connection;
        self.connection.is_quiet = self.json;
        self.notice(&format!(
            "agentfs: the daemon ended during the run; a new one has what {branch} changed"
        ));
        Ok(())
    }

    /// Looks for the export that the daemon made before it ended.
    fn without_daemon(&self) -> Result<bool, Failure> {
        if let Some(store) = &self.store {
            return Err(Failure::Other(format!(
                "the daemon ended during the run; what {} changed is in the store {}, and `agentfs \
                 branch list` shows it",
                self.branch,
                store.display()
            )));
        }
        platform::wait_for_end(self.connection.welcome.daemon_pid);
        let branch = self.branch;
        let Some(directory) = daemon_exit::exported(self.project, branch, self.since) else {
            return Err(Failure::Other(format!(
                "the daemon ended during the run, and no export of {branch} is there: if it changed \
                 anything, that is lost; the daemon's log beside its socket may say why"
            )));
        };
        self.notice(&format!(
            "agentfs: the daemon ended during the run, when it had exported what {branch} changed"
        ));
        let outcome = Outcome {
            directory: Some(directory),
            is_wanted: false,
            ..Outcome::of("exported")
        };
        self.report(&[], &outcome, &[]);
        Ok(false)
    }

    fn with_daemon(&mut self, args: &FinishArgs) -> Result<bool, Failure> {
        let remaining = self.wait_for_processes()?;
        self.require_branch()?;
        // Later changes are not shown, and so they are not thrown away.
        let seq = self.seq()?;
        let left = self.changes()?;
        let (choice, changes) = match self.decided.clone() {
            // A daemon that ended meanwhile may have done all of it.
            Some(decided) => decided,
            None if left.is_empty() => {
                if self.is_new {
                    self.retire(seq)?;
                }
                return Ok(true);
            }
            None => {
                self.show(&left);
                let decided = (choice(args, self.json)?, left);
                self.decided.insert(decided).clone()
            }
        };
        self.require_branch()?;
        let outcome = match choice {
            Choice::Apply => self.apply()?,
            Choice::Discard => Outcome::of("discarded"),
            Choice::Export(directory) => self.export(directory)?,
            Choice::Keep => Outcome::of("kept"),
        };
        // What could not be exported, or has no path, is in the branch only.
        let is_partial = outcome.is_partial(&changes);
        let is_done_with = self.is_new && outcome.word != "kept" && !is_partial;
        if is_done_with || outcome.word == "discarded" {
            self.retire(seq)?;
        }
        self.report(&changes, &outcome, &remaining);
        Ok(outcome.is_wanted && !is_partial)
    }

    /// Refuses to go on with another branch of the same name when the run's own branch was deleted.
    fn require_branch(&mut self) -> Result<(), Failure> {
        let branch = self.branch;
        if hold(self.connection, branch)? {
            return Ok(());
        }
        let text = format!("the branch {branch} was deleted meanwhile, and its changes with it");
        Err(Failure::Other(text))
    }

    /// Returns the processes that are still in the branch. When there is none, waits until the mount has
    /// ended.
    fn wait_for_processes(&mut self) -> Result<Vec<MountProcess>, Failure> {
        self.connection.look_again()?;
        let project = self.connection.project.clone();
        let mounts = mount::list(self.connection)?;
        let shown = mounts.iter().filter(|it| it.branch_name == self.branch);
        let shown: Vec<&MountInfo> = shown.collect();
        let processes: Vec<MountProcess> = shown
            .iter()
            .flat_map(|it| processes::of(it, &project))
            .collect();
        if processes.is_empty() {
            // A mount in this namespace, as `agentfs mount` makes it, stays.
            for mount in shown.into_iter().filter(|it| !processes::is_here(it)) {
                self.connection.call(MountWait {
                    id: mount.id,
                    timeout_ms: MOUNT_END_MS,
                })?;
            }
        }
        Ok(processes)
    }

    fn changes(&mut self) -> Result<Vec<DiffEntry>, Failure> {
        changes_of(self.connection, self.branch)
    }

    fn notice(&self, line: &str) {
        if !self.json {
            // Nothing is left to report to when this fails.
            drop(writeln!(io::stderr(), "{line}"));
        }
    }

    fn show(&self, changes: &[DiffEntry]) {
        let (branch, project) = (self.branch, self.project.display());
        let count = changes.len();
        let paths = if count == 1 { "path" } else { "paths" };
        self.notice(&format!(
            "agentfs: {branch} changed {count} {paths} of {project}:"
        ));
        for change in changes.iter().take(LISTED) {
            self.notice(&format!("  {}", diff_line(change)));
        }
        if count > LISTED {
            self.notice(&format!("  and {} more", count - LISTED));
        }
    }

    fn apply(&mut self) -> Result<Outcome, Failure> {
        let request = BranchApply {
            name: self.branch.to_owned(),
            dry_run: false,
            force: false,
        };
        let applied = match self.connection.call_long(request) {
            Ok(applied) if applied.is_complete => return Ok(Outcome::of("applied")),
            Ok(applied) => applied,
            Err(CallError::Refused(error)) => {
                self.connection.look_again()?;
                if self.is_in_place() {
                    self.notice(&format!("agentfs: not applied: {}", error.message));
                } else {
                    // The hint of the refusal is for `branch apply`. Here the changes are exported.
                    self.notice(
                        "agentfs: nothing was applied, because the project is not at its path any \
                         more",
                    );
                }
                return Ok(Outcome {
                    is_wanted: false,
                    ..self.export(None)?
                });
            }
            Err(error) => return Err(error.into()),
        };
        let done = match applied.step_count {
            0 => "nothing was applied".to_owned(),
            steps => format!("only {steps} of the changes were applied, and the rest is exported"),
        };
        self.notice(&format!(
            "agentfs: {done}, because the project changed meanwhile at:"
        ));
        let conflicts = applied.conflicts;
        for path in &conflicts {
            self.notice(&format!("  {path}"));
        }
        Ok(Outcome {
            conflicts: conflicts.iter().map(ToString::to_string).collect(),
            is_wanted: false,
            ..self.export(None)?
        })
    }

    /// Exports to the directory that the user named, or to the best default one.
    fn export(&mut self, directory: Option<PathBuf>) -> Result<Outcome, Failure> {
        let send =
            |connection: &mut DaemonConnection, request| interruptible::export(connection, request);
        let (directory, exported) = export::export(self.connection, self.branch, directory, send)?;
        Ok(Outcome {
            directory: Some(directory),
            is_wanted: exported.unread_count == 0,
            unread: exported.unread,
            ..Outcome::of("exported")
        })
    }

    fn is_in_place(&self) -> bool {
        match self.connection.project.place {
            ProjectPlace::InPlace | ProjectPlace::Nowhere => true,
            ProjectPlace::Elsewhere | ProjectPlace::Deleted => false,
        }
    }

    /// Returns the sequence number of the last change of the branch; 0 when the branch is gone.
    fn seq(&mut self) -> Result<u64, Failure> {
        let all = leftovers::branches(self.connection)?;
        let own = all.into_iter().find(|it| it.name == self.branch);
        Ok(own.map_or(0, |it| it.seq))
    }

    /// Lets the daemon delete the branch when no process uses it, unless it was changed after this number.
    fn retire(&mut self, seq: u64) -> Result<(), Failure> {
        let name = self.branch.to_owned();
        match self.connection.call(BranchRetire { name, seq }) {
            // The branch was unchanged and is deleted already.
            Err(CallError::Refused(error)) if error.code == Code::NOT_FOUND => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    fn report(&self, changes: &[DiffEntry], outcome: &Outcome, remaining: &[MountProcess]) {
        let branch = self.branch;
        if self.json {
            let report = serde_json::json!({
                "branch": branch,
                "project": self.project,
                "changes": changes,
                "outcome": outcome.word,
                "directory": outcome.directory,
                "conflicts": outcome.conflicts,
                "unread": outcome.unread,
            });
            drop(writeln!(io::stderr(), "{report}"));
            return;
        }
        match &outcome.directory {
            Some(directory) => {
                let command = export::apply_command(self.connection, directory);
                let shown = directory.display();
                self.notice(&format!("agentfs: exported to {shown}"));
                self.notice(&format!("agentfs: to apply them: {command}"));
            }
            None => self.notice(&format!("agentfs: {}", outcome.word)),
        }
        if outcome.word == "kept" {
            leftovers::print_commands(self.connection, branch, &["diff", "apply", "delete"]);
        }
        self.report_unread(changes, outcome);
        self.report_too_deep(changes, outcome);
        for MountProcess { pid, name, .. } in remaining {
            self.notice(&format!(
                "agentfs: process {pid} ({name}) still is at work in {branch}; what it changes from \
                 now on stays there"
            ));
        }
    }
}

impl Finish<'_> {
    /// Reports the files that are in the branch only.
    fn report_unread(&self, changes: &[DiffEntry], outcome: &Outcome) {
        let is_too_deep = |it: &Unread| {
            let mut all = changes.iter().filter(|change| is_too_deep(change));
            all.any(|change| change.path == it.path)
        };
        let unread = outcome.unread.iter().filter(|it| !is_too_deep(it));
        let unread: Vec<&Unread> = unread.collect();
        if unread.is_empty() {
            return;
        }
        self.notice("agentfs: these cannot be read, and are not among the exported changes:");
        for unread in unread {
            self.notice(&format!("  {}: {}", unread.path, unread.why));
        }
        let (branch, command) = (self.branch, self.connection.command());
        let parts = outcome.directory.as_ref().map(|it| it.join("parts"));
        self.notice(&format!(
            "agentfs: what {branch} itself wrote of them is in {}; the branch is kept until: \
             {command} branch delete {branch}",
            parts.unwrap_or_default().display()
        ));
    }

    /// Reports that changes which no path leads to are in the branch only.
    fn report_too_deep(&self, changes: &[DiffEntry], outcome: &Outcome) {
        if !matches!(outcome.word, "applied" | "exported") || !changes.iter().any(is_too_deep) {
            return;
        }
        let branch = self.branch;
        self.notice(&format!(
            "agentfs: what lies deeper than a path can lead (4,095 bytes; marked ! in the list of \
             changes) was left out, and stays in {branch}"
        ));
        leftovers::print_commands(self.connection, branch, &["diff", "delete"]);
    }
}

/// Returns what the options say, or asks the user.
fn choice(args: &FinishArgs, json: bool) -> Result<Choice, Failure> {
    if args.apply {
        return Ok(Choice::Apply);
    }
    if args.discard {
        return Ok(Choice::Discard);
    }
    if args.keep {
        return Ok(Choice::Keep);
    }
    let is_asked =
        args.export.is_none() && !json && io::stdin().is_terminal() && io::stderr().is_terminal();
    if is_asked {
        ask()
    } else {
        Ok(Choice::Export(args.export.clone()))
    }
}

fn ask() -> Result<Choice, Failure> {
    loop {
        let mut errors = io::stderr();
        write!(
            errors,
            "agentfs: [a]pply, [e]xport, [k]eep or [d]iscard them? [e] "
        )
        .and_then(|()| errors.flush())
        .map_err(Failure::Output)?;
        let answer = supervise::line().map_err(Failure::Input)?;
        match answer.unwrap_or_default().trim() {
            "a" | "apply" => return Ok(Choice::Apply),
            "d" | "discard" => return Ok(Choice::Discard),
            "k" | "keep" => return Ok(Choice::Keep),
            "" | "e" | "export" => return Ok(Choice::Export(None)),
            _ => {}
        }
    }
}
