//! The end of a run: what changed, and what becomes of it. Nothing is lost: what is not applied is
//! exported or stays with the daemon, and it is said where.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use agentfs_proto::client::CallError;
use agentfs_proto::message::{
    Applied, BranchApply, BranchDiff, BranchExport, BranchRetire, Code, DiffEntry, DiffKind,
    MountInfo, MountWait, PageNext,
};
use clap::Args;

use super::members::{self, Member};
use super::{PREFIX, branches, supervise};
use crate::cli::branch::diff_line;
use crate::cli::output::time_text;
use crate::cli::session::Session;
use crate::cli::{Common, Failure, mount};

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
}

/// What was done with the changes.
#[derive(Debug)]
struct Outcome {
    word: &'static str,
    directory: Option<PathBuf>,
    conflicts: Vec<String>,
}

impl Outcome {
    fn of(word: &'static str) -> Self {
        Self {
            word,
            directory: None,
            conflicts: Vec::new(),
        }
    }
}

impl Ending<'_> {
    /// Shows the changes and does with them what is asked. Gives whether that was possible.
    pub(super) fn settle(mut self, args: EndingArgs) -> Result<bool, Failure> {
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
        // What cannot be carried over stays in the branch.
        let is_partial = changes.iter().any(|it| it.kind == DiffKind::TooDeep)
            && matches!(outcome.word, "applied" | "exported");
        let is_done_with = self.is_new && outcome.word != "kept" && !is_partial;
        if is_done_with || outcome.word == "discarded" {
            self.retire()?;
        }
        self.tell(&changes, &outcome, &remaining);
        if is_partial {
            let branch = self.branch;
            self.say(&format!(
                "agentfs: what lies deeper than a path can lead (4,095 bytes; marked ! above) was left \
                 out and stays in {branch}: see agentfs branch diff {branch}, branch delete {branch}"
            ));
        }
        Ok(outcome.conflicts.is_empty() && !is_partial)
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
        let applied: Applied = self.session.call_long(request)?;
        if applied.conflict_count == 0 {
            return Ok(Outcome::of("applied"));
        }
        self.say("agentfs: nothing was applied, because the project changed meanwhile at:");
        for path in &applied.conflicts {
            self.say(&format!("  {path}"));
        }
        let mut outcome = self.export(None)?;
        outcome.conflicts = applied.conflicts.iter().map(ToString::to_string).collect();
        Ok(outcome)
    }

    fn export(&mut self, directory: Option<PathBuf>) -> Result<Outcome, Failure> {
        let places = match directory {
            Some(directory) => {
                vec![std::path::absolute(directory).map_err(Failure::Input)?]
            }
            None => self.places(),
        };
        let mut failure = None;
        for directory in places {
            let request = BranchExport {
                name: self.branch.to_owned(),
                path: directory.as_path().into(),
            };
            match self.session.call_long(request) {
                Ok(_) => {
                    return Ok(Outcome {
                        word: "exported",
                        directory: Some(directory),
                        conflicts: Vec::new(),
                    });
                }
                Err(error) => failure = Some(error),
            }
        }
        let why = failure.map(|it| it.to_string()).unwrap_or_default();
        let branch = self.branch;
        Err(Failure::Other(format!(
            "the changes cannot be exported: {why}; they stay in the branch {branch}: export them \
             with agentfs run --branch {branch} --export DIR -- true"
        )))
    }

    /// New directories for an export, the best one first.
    fn places(&self) -> Vec<PathBuf> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let time = time_text(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
        let time: String = time.chars().filter(|it| *it != '-' && *it != ':').collect();
        let time = time.replace(' ', "-");
        let mut name = OsString::from(self.branch.replace('/', "-"));
        name.push(format!("-{time}-{}", std::process::id()));
        let project = self.project.file_name().unwrap_or_default();
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let state = variable("XDG_STATE_HOME")
            .filter(|it| it.is_absolute())
            .or_else(|| Some(variable("HOME")?.join(".local/state")))
            .map(|it| it.join("agentfs/changes").join(project));
        let uid = rustix::process::geteuid().as_raw();
        let temporary = std::env::temp_dir().join(format!("agentfs-changes-{uid}"));
        let places = [state, Some(temporary)].into_iter().flatten();
        // What is exported into the project would be a change of it.
        let outside = places.filter(|it| !it.starts_with(self.project));
        outside.map(|it| it.join(&name)).collect()
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
            });
            drop(writeln!(io::stderr(), "{report}"));
            return;
        }
        match &outcome.directory {
            Some(directory) => {
                let directory = directory.display();
                self.say(&format!("agentfs: exported to {directory}"));
                self.say(&format!(
                    "agentfs: to apply them: agentfs apply {directory}"
                ));
            }
            None => self.say(&format!("agentfs: {}", outcome.word)),
        }
        if outcome.word == "kept" {
            self.say(&format!(
                "agentfs: see agentfs branch diff {branch}, branch apply {branch}, branch delete {branch}"
            ));
        }
        for Member { pid, name } in remaining {
            self.say(&format!(
                "agentfs: process {pid} ({name}) still is at work in {branch}; what it changes from \
                 now on stays there"
            ));
        }
    }
}

/// Tells of what runs left behind that were killed.
pub(super) fn tell_of_leftovers(common: &Common, session: &mut Session) -> Result<(), Failure> {
    let mounts = mount::list(session)?;
    let is_shown = |name: &String| mounts.iter().any(|it| it.branch_name == *name);
    let left = branches(session)?;
    for name in left.iter().filter(|it| it.starts_with(PREFIX)) {
        if !is_shown(name) && !changes_of(session, name)?.is_empty() && !common.json {
            let line = format!(
                "agentfs: {name}, which was not ended properly, has changes: see agentfs branch \
                 diff {name}, branch apply {name}, branch delete {name}"
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
