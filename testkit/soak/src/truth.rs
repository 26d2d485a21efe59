//! The records of a run: changes as they were committed, and the events that each listener heard.
//!
//! Each record is one line of fields separated by tabs, so that a process that is killed leaves
//! whole lines but for the last.

use std::path::Path;

use crate::Failure;

/// A change of a path, as it was committed or as it was delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LoggedChange {
    /// The change's number in the order of commits.
    pub(crate) seq: u64,
    /// `created`, `removed`, `modified`, `renamed`, `snapshot_created`, `overflow`.
    pub(crate) kind: String,
    /// Any of [`DIRECTORY`], [`ATTRIBUTES`], [`HEALED`].
    pub(crate) marks: String,
    pub(crate) path: String,
    /// The new path of a rename.
    pub(crate) to: String,
}

/// The object is a directory.
pub(crate) const DIRECTORY: char = 'd';
/// The change was of attributes, not of content.
pub(crate) const ATTRIBUTES: char = 'a';
/// The change was delivered as a part of a difference between two states.
pub(crate) const HEALED: char = 'h';

/// An event of an inotify watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct InotifyEvent {
    /// The watched directory, or nothing for an overflow.
    pub(crate) dir: String,
    pub(crate) mask: u32,
    pub(crate) name: String,
}

/// The line of a log from which on every change must be heard.
pub(crate) const GO: &str = "go";

impl LoggedChange {
    pub(crate) fn line(&self) -> String {
        let Self {
            seq,
            kind,
            marks,
            path,
            to,
        } = self;
        format!("{seq}\t{kind}\t{marks}\t{path}\t{to}\n")
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [seq, kind, marks, path, to] = fields.as_slice() else {
            return None;
        };
        Some(Self {
            seq: seq.parse().ok()?,
            kind: (*kind).to_owned(),
            marks: (*marks).to_owned(),
            path: (*path).to_owned(),
            to: (*to).to_owned(),
        })
    }

    pub(crate) fn has(&self, mark: char) -> bool {
        self.marks.contains(mark)
    }

    /// Returns whether both are the same change, whatever their numbers are.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let said = |it: &Self| {
            (
                it.kind.clone(),
                it.has(ATTRIBUTES),
                it.path.clone(),
                it.to.clone(),
            )
        };
        said(self) == said(other)
    }
}

impl InotifyEvent {
    pub(crate) fn line(&self) -> String {
        format!("{}\t{:x}\t{}\n", self.dir, self.mask, self.name)
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [dir, mask, name] = fields.as_slice() else {
            return None;
        };
        Some(Self {
            dir: (*dir).to_owned(),
            mask: u32::from_str_radix(mask, 16).ok()?,
            name: (*name).to_owned(),
        })
    }
}

/// Returns the whole lines of a log from the last [`GO`] on.
fn lines(log: &Path) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(log)?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines: Vec<&str> = whole.lines().collect();
    let start = lines
        .iter()
        .rposition(|it| *it == GO)
        .map_or(0, |at| at + 1);
    Ok(lines
        .iter()
        .skip(start)
        .map(|it| (*it).to_owned())
        .collect())
}

pub(crate) fn read_changes(log: &Path) -> Result<Vec<LoggedChange>, Failure> {
    let parse = |line: &String| {
        LoggedChange::parse(line).ok_or_else(|| format!("not an event: {line}").into())
    };
    lines(log)?.iter().map(parse).collect()
}

pub(crate) fn read_inotify(log: &Path) -> Result<Vec<InotifyEvent>, Failure> {
    let parse = |line: &String| {
        InotifyEvent::parse(line).ok_or_else(|| format!("not an event: {line}").into())
    };
    lines(log)?.iter().map(parse).collect()
}
