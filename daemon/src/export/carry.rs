//! From a directory to the project.

use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::DiffKind;

use super::look::{Look, State, look};
use super::put::Maker;
use super::{ExportError, Source, Step, Stop, Target, UnreadFile};

/// How to go about conflicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Only look.
    DryRun,
    /// Do nothing if there is one.
    Refuse,
    /// Take the side of the branch.
    Force,
}

/// What was done, or would be.
#[derive(Debug)]
pub(crate) struct Carried {
    /// Each with its path, in their order, without those that had been made earlier.
    pub(crate) changes: Vec<(DiffKind, Bytes)>,
    /// How many of them are made.
    pub(crate) made: usize,
    /// How many had been made earlier.
    pub(crate) made_before: usize,
    /// What the project changed since the branch saw it, or since the list was written.
    pub(crate) conflicts: Vec<Bytes>,
    /// What ended it early.
    pub(crate) failure: Option<ExportError>,
}

/// Carries the changes of an exported branch over to a directory. With conflicts nothing is done,
/// unless it is forced. What is made already is no conflict and is not made again, so that what was
/// interrupted can be finished. The directory is to be [locked](Target::lock).
///
/// # Errors
///
/// [`ExportError`], before anything is done.
pub(crate) fn carry(
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
        made: 0,
        made_before: steps.len() - changes.len(),
        changes,
        conflicts,
        failure: None,
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
    for (step, look) in to_do() {
        if let Err(error) = maker.make(step, look.seen) {
            carried.failure = Some(error.at(target.display(&step.path)));
            break;
        }
        carried.made += 1;
    }
    if let Err((path, error)) = maker.finish() {
        let error = error.at(target.display(path));
        carried.failure.get_or_insert(error);
    }
    Ok(carried)
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
    pub(crate) fn unread(&self) -> &[UnreadFile] {
        &self.list.unread
    }
}
