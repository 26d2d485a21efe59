//! From a directory to the project.

pub(crate) mod apply_step;
mod hard_links;
pub(crate) mod source;
mod survey;
pub(crate) mod target;

use std::collections::HashSet;

use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::DiffKind;

use crate::error::StepError;
use crate::import::apply_step::Maker;
use crate::import::survey::{Look, State, look};
use crate::{ExportError, Source, Step, Stop, Target, UnreadFile};

/// How to go about conflicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Only look.
    DryRun,
    /// Do nothing if there is one.
    Refuse,
    /// Take the side of the branch.
    Force,
}

/// What was done, or would be.
#[derive(Debug)]
pub struct Carried {
    /// Each with its path, in their order, without those that had been made earlier.
    pub changes: Vec<(DiffKind, Bytes)>,
    /// Those of them that were made.
    pub made: Vec<(DiffKind, Bytes)>,
    /// How many had been made earlier.
    pub made_before: usize,
    /// What the project changed since the branch saw it, or since the list was written.
    pub conflicts: Vec<Bytes>,
    /// Why the others were not made.
    pub failures: Vec<ExportError>,
}

/// Carries the changes of an exported branch over to a directory. With conflicts nothing is done,
/// unless it is forced. What is made already is no conflict and is not made again, so that what was
/// interrupted can be finished. The directory is to be [locked](Target::lock).
///
/// # Errors
///
/// [`ExportError`], before anything is done.
pub fn carry(
    source: &Source,
    target: &Target,
    mode: Mode,
    stop: &Stop,
) -> Result<Carried, ExportError> {
    let steps = source.steps();
    let looks = look(source, target, stop)?;
    let conflicts = conflicts(source, &looks);
    let to_do = || {
        let both = steps.iter().zip(&looks);
        both.filter(|(_, look)| look.state != State::Done)
    };
    let changes: Vec<_> = to_do()
        .map(|(step, _)| (step.change, step.path.clone()))
        .collect();
    let mut carried = Carried {
        made: Vec::new(),
        made_before: steps.len() - changes.len(),
        changes,
        conflicts,
        failures: Vec::new(),
    };
    if mode == Mode::DryRun || (mode == Mode::Refuse && !carried.conflicts.is_empty()) {
        return Ok(carried);
    }
    let linked = to_do().filter_map(|(step, look)| {
        let old = look.seen.filter(|it| it.is_file() && it.nlink > 1)?;
        (step.change == DiffKind::Content).then_some(old.ino)
    });
    let mut maker = Maker {
        source,
        target,
        stop,
        force: mode == Mode::Force,
        linked: linked.collect(),
        names: None,
        directories: Vec::new(),
    };
    let mut held = held(steps, &looks);
    for (step, look) in to_do() {
        let display = target.display(&step.path);
        if is_refused(step, look) {
            carried.failures.push(ExportError::Kept(display));
            continue;
        }
        if is_held(&held, step) {
            hold(&mut held, step);
            carried.failures.push(ExportError::Depends(display));
            continue;
        }
        match maker.make(step, look.seen) {
            Ok(()) => carried.made.push((step.change, step.path.clone())),
            Err(StepError::Stopped) => {
                carried.failures.push(ExportError::Stopped);
                break;
            }
            Err(error) => {
                hold(&mut held, step);
                carried.failures.push(error.at(display));
            }
        }
    }
    if let Err((path, error)) = maker.finish() {
        let error = error.at(target.display(path));
        carried.failures.push(error);
    }
    Ok(carried)
}

/// Returns whether a rename is never made, not even when it is forced: another object has the name.
fn is_refused(step: &Step, look: &Look) -> bool {
    step.change == DiffKind::Renamed && look.state == State::Conflict && !look.is_recorded
}

/// Returns the paths at which nothing is changed, because a rename there or a rename that leads there
/// is refused. Earlier steps may make room for such a rename, so all of them are looked at.
fn held<'a>(steps: &'a [Step], looks: &[Look]) -> HashSet<&'a [u8]> {
    let mut held = HashSet::new();
    for (step, _) in steps
        .iter()
        .zip(looks)
        .filter(|(step, look)| is_refused(step, look))
    {
        hold(&mut held, step);
    }
    loop {
        let count = held.len();
        let open = steps
            .iter()
            .zip(looks)
            .filter(|(_, look)| look.state != State::Done);
        for (step, _) in open {
            if is_held(&held, step) {
                hold(&mut held, step);
            }
        }
        if held.len() == count {
            return held;
        }
    }
}

fn hold<'a>(held: &mut HashSet<&'a [u8]>, step: &'a Step) {
    held.insert(&step.path);
    if step.change == DiffKind::Renamed {
        held.insert(&step.from);
    }
}

/// Returns whether a step is at such a path or below one.
fn is_held(held: &HashSet<&[u8]>, step: &Step) -> bool {
    let is_below = |path: &Bytes| {
        let path: &[u8] = path;
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut parents = slashes.filter_map(|(at, _)| path.get(..at));
        held.contains(path) || parents.any(|parent| held.contains(parent))
    };
    is_below(&step.path) || (step.change == DiffKind::Renamed && is_below(&step.from))
}

fn conflicts(source: &Source, looks: &[Look]) -> Vec<Bytes> {
    let steps = || source.steps().iter().zip(looks);
    let is_about =
        |step: &Step, path: &Bytes| [&step.path, &step.original, &step.from].contains(&path);
    // What was in conflict and was made nevertheless is none any more.
    let is_open = |path: &&Bytes| {
        let mut about = steps().filter(|(step, _)| is_about(step, path)).peekable();
        about.peek().is_none() || about.any(|(_, look)| look.state != State::Done)
    };
    let mut conflicts: Vec<Bytes> = source
        .list
        .conflicts
        .iter()
        .filter(is_open)
        .cloned()
        .collect();
    let found = steps().filter(|(_, look)| look.state == State::Conflict);
    conflicts.extend(found.map(|(step, _)| step.path.clone()));
    conflicts.sort();
    conflicts.dedup();
    conflicts
}

impl Source {
    /// Files of the branch that could not be read when this was written.
    pub fn unread(&self) -> &[UnreadFile] {
        &self.list.unread
    }
}
