//! Imports an exported directory into a project: [`survey`](mod@survey) finds how far the project is
//! from each step of the list, and [`apply_step`] prepares the steps that are left
//! as one transaction.

pub(crate) mod apply_step;
mod hard_links;
pub(crate) mod source;
mod survey;
pub(crate) mod target;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;

use agentfs_core::Transaction;
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::DiffKind;

use crate::changes::{Object, Step};
use crate::error::StepError;
use crate::import::apply_step::{Prepared, StepApplier, relative};
use crate::import::survey::{Finding, State, survey};
use crate::{CancelToken, ExportError, Source, Target, UnreadFile};

/// What an import does about conflicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Change nothing, and report what would be done.
    DryRun,
    /// Change nothing if there is a conflict.
    Refuse,
    /// Take the side of the branch.
    Force,
}

/// What an import changed, or would change.
#[derive(Debug)]
pub struct Imported {
    /// The changes with their paths, in their order, without those that had been applied earlier.
    pub changes: Vec<(DiffKind, Bytes)>,
    /// The changes that were applied now.
    pub made: Vec<(DiffKind, Bytes)>,
    /// How many changes had been applied earlier.
    pub made_before: usize,
    /// The paths that the project changed since the branch saw them, or since the list was written.
    pub conflicts: Vec<Bytes>,
    /// Why the other changes were not applied.
    pub failures: Vec<ExportError>,
}

/// Applies the changes of an exported branch to a directory, which the caller has
/// [locked](Target::lock). With conflicts nothing is changed, unless the mode is [`Mode::Force`]. All
/// changes are made, or none: they are one [`Transaction`]. A change that is applied already is no
/// conflict and is not applied again.
///
/// # Errors
///
/// [`ExportError`] when the survey fails. Nothing is changed then.
pub fn import(
    source: &Source,
    target: &Target,
    mode: Mode,
    stop: &CancelToken,
) -> Result<Imported, ExportError> {
    let steps = source.steps();
    let findings = survey(source, target, stop)?;
    let conflicts = conflicts(source, &findings);
    let to_do = || {
        let both = steps.iter().zip(&findings);
        both.filter(|(_, finding)| finding.state != State::Done)
    };
    let changes: Vec<_> = to_do()
        .map(|(step, _)| (step.change, step.path.clone()))
        .collect();
    let mut imported = Imported {
        made: Vec::new(),
        made_before: steps.len() - changes.len(),
        changes,
        conflicts,
        failures: Vec::new(),
    };
    if mode == Mode::DryRun || (mode == Mode::Refuse && !imported.conflicts.is_empty()) {
        return Ok(imported);
    }
    if imported.changes.is_empty() {
        return Ok(imported);
    }
    let failed =
        |errno: agentfs_core::Errno| ExportError::Io(target.path().to_owned(), errno.into());
    let transaction = Transaction::begin(target.root()).map_err(failed)?;
    let linked = to_do().filter_map(|(step, finding)| {
        let old = finding.seen.filter(|it| it.is_file() && it.nlink > 1)?;
        (step.change == DiffKind::Content).then_some(old.ino)
    });
    let mut applier = StepApplier {
        source,
        target,
        stop,
        transaction,
        force: mode == Mode::Force,
        linked: linked.collect(),
        takers: takers(steps, &findings),
        prepared: Prepared::default(),
    };
    let Some(made) = prepare(&mut applier, &findings, &mut imported.failures) else {
        return Ok(imported);
    };
    if let Err((path, error)) = applier.finish() {
        imported.failures.push(error.at(target.display(path)));
        return Ok(imported);
    }
    match perform(applier.transaction, &made, stop) {
        Ok(()) => {
            imported.made = made
                .iter()
                .map(|(it, _)| (it.change, it.path.clone()))
                .collect();
        }
        Err((error, step)) => {
            let path = step.map_or_else(|| target.path().to_owned(), |it| target.display(&it.path));
            imported.failures.push(error.at(path));
        }
    }
    Ok(imported)
}

/// Prepares the steps that are to be done. Returns them, each with the number of operations when it is
/// made; `None` if one cannot be made. Steps that are refused, or depend on such, are left out.
fn prepare<'a>(
    applier: &mut StepApplier<'a>,
    findings: &[Finding],
    failures: &mut Vec<ExportError>,
) -> Option<Vec<(&'a Step, usize)>> {
    let (steps, target) = (applier.source.steps(), applier.target);
    let mut blocked = blocked(steps, findings);
    let mut made = Vec::new();
    for (index, (step, finding)) in steps.iter().zip(findings).enumerate() {
        if finding.state == State::Done {
            continue;
        }
        let display = target.display(&step.path);
        if is_refused(step, finding) {
            failures.push(ExportError::Kept(display));
            continue;
        }
        if is_blocked(&blocked, step) {
            block(&mut blocked, step);
            failures.push(ExportError::Depends(display));
            continue;
        }
        if let Err(error) = applier.prepare(index, step, finding.seen) {
            failures.push(error.at(display));
            return None;
        }
        made.push((step, applier.transaction.len()));
    }
    Some(made)
}

/// Performs what is prepared, all of it or nothing. Says at which step it failed.
fn perform<'a>(
    mut transaction: Transaction<'_>,
    steps: &[(&'a Step, usize)],
    stop: &CancelToken,
) -> Result<(), (StepError, Option<&'a Step>)> {
    let failed = |errno: agentfs_core::Errno| (errno.into(), None);
    if transaction.is_empty() {
        return Ok(());
    }
    transaction.seal().map_err(failed)?;
    while transaction.performed() < transaction.len() {
        let at = transaction.performed();
        let step = || {
            steps
                .iter()
                .find(|(_, end)| at < *end)
                .map(|(step, _)| *step)
        };
        stop.check().map_err(|error| (error.into(), step()))?;
        match transaction.perform_next() {
            Ok(true) => {}
            Ok(false) => return Err((StepError::Changed, step())),
            Err(errno) => return Err((errno.into(), step())),
        }
    }
    transaction.commit().map_err(failed)
}

/// Returns the names of which a step takes away a file, and a later one puts another there, with no
/// rename in between: the new one replaces the old one.
fn takers<'a>(steps: &'a [Step], findings: &[Finding]) -> HashSet<&'a [u8]> {
    let mut removed = HashSet::new();
    let mut takers = HashSet::new();
    for (step, finding) in steps.iter().zip(findings) {
        let is_to_do = finding.state != State::Done;
        let is_directory = step.after.as_ref().is_some_and(Object::is_directory);
        match step.change {
            DiffKind::Renamed => removed.clear(),
            DiffKind::Removed if is_to_do => {
                removed.insert(relative(&step.path));
            }
            DiffKind::Added if is_to_do && !is_directory => {
                takers.extend(removed.take(relative(&step.path)));
            }
            DiffKind::Removed
            | DiffKind::Added
            | DiffKind::Content
            | DiffKind::Attributes
            | DiffKind::TooDeep => {}
        }
    }
    takers
}

/// Returns whether a rename is never applied, not even when it is forced: another object has the name.
fn is_refused(step: &Step, finding: &Finding) -> bool {
    step.change == DiffKind::Renamed && finding.state == State::Conflict && !finding.is_recorded
}

/// Returns the paths at which nothing is changed, because a rename from or to them is refused. Earlier
/// steps may make room for such a rename, so all steps are considered.
fn blocked<'a>(steps: &'a [Step], findings: &[Finding]) -> HashSet<&'a [u8]> {
    let both = || steps.iter().zip(findings);
    let refused = both().filter(|(step, finding)| is_refused(step, finding));
    let mut new: Vec<&[u8]> = refused.flat_map(|(step, _)| step.paths()).collect();
    // The steps that may still be blocked, by their paths.
    let mut open: BTreeMap<&[u8], Vec<&Step>> = BTreeMap::new();
    for (step, _) in both().filter(|(_, finding)| finding.state != State::Done) {
        for path in step.paths() {
            open.entry(path).or_default().push(step);
        }
    }
    let mut blocked = HashSet::new();
    while let Some(path) = new.pop() {
        if !blocked.insert(path) {
            continue;
        }
        let (first, end) = ([path, b"/"].concat(), [path, b"0"].concat());
        let range = (Bound::Included(&*first), Bound::Excluded(&*end));
        let below = open.range::<[u8], _>(range);
        let below: Vec<&[u8]> = below.map(|(path, _)| *path).chain([path]).collect();
        let steps = below.into_iter().filter_map(|path| open.remove(path));
        new.extend(steps.flatten().flat_map(Step::paths));
    }
    blocked
}

fn block<'a>(blocked: &mut HashSet<&'a [u8]>, step: &'a Step) {
    blocked.extend(step.paths());
}

/// Returns whether a step is at a blocked path or below one.
fn is_blocked(blocked: &HashSet<&[u8]>, step: &Step) -> bool {
    let is_below = |path: &Bytes| {
        let path: &[u8] = path;
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut parents = slashes.filter_map(|(at, _)| path.get(..at));
        blocked.contains(path) || parents.any(|parent| blocked.contains(parent))
    };
    is_below(&step.path) || (step.change == DiffKind::Renamed && is_below(&step.from))
}

fn conflicts(source: &Source, findings: &[Finding]) -> Vec<Bytes> {
    let steps = || source.steps().iter().zip(findings);
    // Whether a step about a path is still to be done, for each path that steps are about.
    let mut about: HashMap<&Bytes, bool> = HashMap::new();
    for (step, finding) in steps() {
        for path in [&step.path, &step.original, &step.from] {
            *about.entry(path).or_default() |= finding.state != State::Done;
        }
    }
    // What was in conflict and was applied nevertheless is no conflict any more.
    let is_open = |path: &&Bytes| about.get(path).copied().unwrap_or(true);
    let mut conflicts: Vec<Bytes> = source
        .list
        .conflicts
        .iter()
        .filter(is_open)
        .cloned()
        .collect();
    let found = steps().filter(|(_, finding)| finding.state == State::Conflict);
    conflicts.extend(found.map(|(step, _)| step.path.clone()));
    conflicts.sort();
    conflicts.dedup();
    conflicts
}

impl Source {
    /// Returns the files of the branch that could not be read when the directory was written.
    pub fn unread(&self) -> &[UnreadFile] {
        &self.list.unread
    }
}
