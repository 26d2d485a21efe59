//! The end of a run: what changed, and what becomes of it. Nothing is lost: what is not applied is
//! exported or stays with the daemon, and it is said where.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use agentfs_proto::client::{CallError, Deadline};
use agentfs_proto::message::{
    BranchApply, BranchDiff, BranchExport, BranchRetire, Code, DiffEntry, Exported, MountInfo,
    MountWait, PageNext, Unread,
};
use clap::Args;

use super::members::{self, Member};
use super::{PREFIX, branches, lost, supervise};
use crate::cli::branch::diff_line;
use crate::cli::session::Session;
use crate::cli::{Common, Failure, mount};
use crate::export::places;
use crate::quote::{apply_command, quoted};

/// Changes that are listed.
const LISTED: usize = 40;
/// How long the kernel may take to take a mount away that nobody uses.
const MOUNT_END_MS: u32 = 5_000;

/// What becomes of the changes.
#[derive(Debug, Default, Args)]
#[group(id = "ending", multiple = false)]
pub(crate) struct EndingArgs {
    /// Carry the changes over to the project; where it was changed too, they are exported instead
    #[arg(long)]
    apply: bool,
    /// Throw the changes away
    #[arg(long)]
    discard: bool,
    /// Write the changes to a new directory, for `agentfs apply DIR`
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
    /// Leave the changes in the branch
    #[arg(long)]
    keep: bool,
}

/// What was asked for.
#[derive(Debug)]
enum Choice {
    Apply,
    Discard,
    Export(Option<PathBuf>),
    Keep,
}

/// A run whose command has ended.
#[derive(Debug)]
pub(super) struct Ending<'a> {
    pub(super) common: &'a Common,
    pub(super) session: &'a mut Session,
    pub(super) branch: &'a str,
    pub(super) is_new: bool,
    pub(super) project: &'a Path,
    /// When the run began.
    pub(super) since: SystemTime,
}

/// What was done with the changes.
#[derive(Debug)]
struct Outcome {
    word: &'static str,
    directory: Option<PathBuf>,
    conflicts: Vec<String>,
    /// Files that could not be exported.
    unread: Vec<Unread>,
    /// Whether that is what was asked for.
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
}

impl Ending<'_> {
    /// Shows the changes and does with them what is asked. Gives whether that was possible.
    pub(super) fn settle(mut self, args: EndingArgs) -> Result<bool, Failure> {
        match self.settle_with_daemon(args) {
            Err(Failure::Call(_, CallError::Closed | CallError::Timeout | CallError::Io(_))) => {
                self.settle_without_daemon()
            }
            // It says itself where the changes are.
            Err(failure @ Failure::Other(_)) => Err(failure),
            Err(failure) => Err(self.kept(&failure.to_string())),
            Ok(is_settled) => Ok(is_settled),
        }
    }

    /// The changes stay where they are.
    fn kept(&self, why: &str) -> Failure {
        let branch = self.branch;
        let export = format!(
            "run --branch {branch} --lower {} --export DIR -- true",
            quoted(self.project)
        );
        Failure::Other(format!(
            "{why}; the changes stay in the branch {branch}: export them with {}",
            self.common.command(&export)
        ))
    }

    /// The daemon has ended: it exported the changes first.
    fn settle_without_daemon(&self) -> Result<bool, Failure> {
        lost::wait_for_end(self.session.welcome.daemon_pid);
        let branch = self.branch;
        let Some(directory) = lost::exported(self.project, branch, self.since) else {
            return Err(Failure::Other(format!(
                "the daemon ended during the run, and no export of {branch} is there: if it changed \
                 anything, that is lost; the daemon's log beside its socket may say why"
            )));
        };
        self.say(&format!(
            "agentfs: the daemon ended during the run, when it had exported what {branch} changed"
        ));
        let outcome = Outcome {
            directory: Some(directory),
            is_wanted: false,
            ..Outcome::of("exported")
        };
        self.tell(&[], &outcome, &[]);
        Ok(false)
    }

    fn settle_with_daemon(&mut self, args: EndingArgs) -> Result<bool, Failure> {
        let remaining = self.wait_for_members()?;
        let changes = self.changes()?;
        if changes.is_empty() {
            if self.is_new {
                self.retire()?;
            }
            return Ok(true);
        }
        self.show(&changes);
        let outcome = match choice(args, self.common.json)? {
            Choice::Apply => self.apply()?,
            Choice::Discard => Outcome::of("discarded"),
            Choice::Export(directory) => self.export(directory)?,
            Choice::Keep => Outcome::of("kept"),
        };
        // What could not be exported is in the branch only.
        let is_done_with = self.is_new && outcome.word != "kept" && outcome.unread.is_empty();
        if is_done_with || outcome.word == "discarded" {
            self.retire()?;
        }
        self.tell(&changes, &outcome, &remaining);
        Ok(outcome.is_wanted)
    }

    /// Whoever still is in the branch; when nobody is, the mount is gone afterwards.
    fn wait_for_members(&mut self) -> Result<Vec<Member>, Failure> {
        let mounts = mount::list(self.session)?;
        let shown = mounts.iter().filter(|it| it.branch_name == self.branch);
        let shown: Vec<&MountInfo> = shown.collect();
        let members: Vec<Member> = shown.iter().flat_map(|it| members::of(it)).collect();
        if members.is_empty() {
            for mount in shown {
                self.session.call(MountWait {
                    id: mount.id,
                    timeout_ms: MOUNT_END_MS,
                })?;
            }
        }
        Ok(members)
    }

    fn changes(&mut self) -> Result<Vec<DiffEntry>, Failure> {
        changes_of(self.session, self.branch)
    }

    fn say(&self, line: &str) {
        if !self.common.json {
            // There is nobody else to tell.
            drop(writeln!(io::stderr(), "{line}"));
        }
    }

    fn show(&self, changes: &[DiffEntry]) {
        let (branch, project) = (self.branch, self.project.display());
        let count = changes.len();
        let paths = if count == 1 { "path" } else { "paths" };
        self.say(&format!(
            "agentfs: {branch} changed {count} {paths} of {project}:"
        ));
        for change in changes.iter().take(LISTED) {
            self.say(&format!("  {}", diff_line(change)));
        }
        if count > LISTED {
            self.say(&format!("  and {} more", count - LISTED));
        }
    }

    fn apply(&mut self) -> Result<Outcome, Failure> {
        let request = BranchApply {
            name: self.branch.to_owned(),
            dry_run: false,
            force: false,
        };
        let conflicts = match self.session.client.call(request, Deadline::NEVER) {
            Ok(applied) if applied.conflict_count == 0 => return Ok(Outcome::of("applied")),
            Ok(applied) => applied.conflicts,
            Err(CallError::Refused(error)) => {
                self.say(&format!("agentfs: the changes cannot be applied: {error}"));
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        if !conflicts.is_empty() {
            self.say("agentfs: nothing was applied, because the project changed meanwhile at:");
        }
        for path in &conflicts {
            self.say(&format!("  {path}"));
        }
        Ok(Outcome {
            conflicts: conflicts.iter().map(ToString::to_string).collect(),
            is_wanted: false,
            ..self.export(None)?
        })
    }

    /// Exports to the directory that was named, or to the best place there is.
    fn export(&mut self, directory: Option<PathBuf>) -> Result<Outcome, Failure> {
        let directories = match directory {
            Some(directory) => {
                vec![Ok(std::path::absolute(directory).map_err(Failure::Input)?)]
            }
            None => {
                let places = places(self.project).into_iter();
                places
                    .map(|it| it.prepare(self.project, self.branch))
                    .collect()
            }
        };
        let mut failures = Vec::new();
        for directory in directories {
            let exported = match directory {
                Ok(directory) => self.export_to(&directory).map(|it| (directory, it)),
                Err(error) => {
                    failures.push(error.to_string());
                    continue;
                }
            };
            match exported {
                Ok((directory, exported)) => {
                    return Ok(Outcome {
                        directory: Some(directory),
                        is_wanted: exported.unread_count == 0,
                        unread: exported.unread,
                        ..Outcome::of("exported")
                    });
                }
                Err(Failure::Call(_, CallError::Refused(error))) => {
                    failures.push(error.to_string());
                }
                Err(failure) => return Err(failure),
            }
        }
        let why = failures.join("; ");
        Err(self.kept(&format!("the changes cannot be exported: {why}")))
    }

    /// Exports, unless a signal comes before that is done: then nothing is left of the export.
    fn export_to(&mut self, directory: &Path) -> Result<Exported, Failure> {
        let request = BranchExport {
            name: self.branch.to_owned(),
            path: directory.into(),
        };
        let client = &mut self.session.client;
        let number = client.send(request.into(), Deadline::NEVER)?;
        if let Some(signal) = supervise::readable_or_signal(&*client).map_err(Failure::Input)? {
            // The daemon ends the export with the connection, which ends with this process.
            return Err(self.kept(&format!("the export was interrupted by {signal}")));
        }
        let (exported, _) = client.answer_to(number, Deadline::NEVER)?;
        Ok(exported)
    }

    /// The branch may go when nobody uses it, as it is now.
    fn retire(&mut self) -> Result<(), Failure> {
        let name = self.branch.to_owned();
        match self.session.call(BranchRetire { name }) {
            // It was unchanged and is gone already.
            Err(CallError::Refused(error)) if error.code == Code::NOT_FOUND => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    fn tell(&self, changes: &[DiffEntry], outcome: &Outcome, remaining: &[Member]) {
        let branch = self.branch;
        if self.common.json {
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
                let apply = apply_command(directory, self.project);
                self.say(&format!("agentfs: exported to {}", directory.display()));
                self.say(&format!("agentfs: to apply them: {apply}"));
            }
            None => self.say(&format!("agentfs: {}", outcome.word)),
        }
        if outcome.word == "kept" {
            self.say(&format!("agentfs: see {}", what_to_do(self.common, branch)));
        }
        self.tell_of_unread(outcome);
        for Member { pid, name } in remaining {
            self.say(&format!(
                "agentfs: process {pid} ({name}) still is at work in {branch}; what it changes from \
                 now on stays there"
            ));
        }
    }
}

impl Ending<'_> {
    /// Names the files that are in the branch only.
    fn tell_of_unread(&self, outcome: &Outcome) {
        if outcome.unread.is_empty() {
            return;
        }
        self.say("agentfs: these cannot be read, and are not among the exported changes:");
        for unread in &outcome.unread {
            self.say(&format!("  {}: {}", unread.path, unread.why));
        }
        let branch = self.branch;
        let parts = outcome.directory.as_ref().map(|it| it.join("parts"));
        let delete = self.common.command(&format!("branch delete {branch}"));
        self.say(&format!(
            "agentfs: what {branch} itself wrote of them is in {}; the branch is kept until: {delete}",
            parts.unwrap_or_default().display()
        ));
    }
}

/// What is done with a branch that has changes.
fn what_to_do(common: &Common, branch: &str) -> String {
    let words = ["branch diff", "branch apply", "branch delete"];
    let commands = words.map(|it| common.command(&format!("{it} {branch}")));
    commands.join(", ")
}

/// Tells of what runs left behind that were killed.
pub(super) fn tell_of_leftovers(common: &Common, session: &mut Session) -> Result<(), Failure> {
    let mounts = mount::list(session)?;
    let is_shown = |name: &String| mounts.iter().any(|it| it.branch_name == *name);
    let left = branches(session)?;
    for name in left.iter().filter(|it| it.starts_with(PREFIX)) {
        if !is_shown(name) && !changes_of(session, name)?.is_empty() && !common.json {
            let line = format!(
                "agentfs: {name}, which was not ended properly, has changes: see {}",
                what_to_do(common, name)
            );
            drop(writeln!(io::stderr(), "{line}"));
        }
    }
    Ok(())
}

/// What a branch changed. One that is gone did not change anything.
fn changes_of(session: &mut Session, branch: &str) -> Result<Vec<DiffEntry>, Failure> {
    let request = BranchDiff {
        name: branch.to_owned(),
        against: String::new(),
    };
    let mut page = match session.call(request) {
        Err(CallError::Refused(error)) if error.code == Code::NOT_FOUND => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = page.entries;
    while page.next != 0 {
        page = session.call(PageNext { page: page.next })?;
        all.append(&mut page.entries);
    }
    Ok(all)
}

/// What was asked for, or is asked for now.
fn choice(args: EndingArgs, json: bool) -> Result<Choice, Failure> {
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
        Ok(Choice::Export(args.export))
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
