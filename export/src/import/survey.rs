//! Surveys the host before anything is applied: for each step of a list, whether the host is as the list
//! expects it, whether the step is done already, or whether another program changed what it changes.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use agentfs_core::{HostObject, beneath};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::DiffKind;
use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;

use crate::cancel::CancelToken;
use crate::changes::{LIST, Object, Step, alike};
use crate::error::StepError;
use crate::import::source::Source;
use crate::import::target::{Metadata, Target};
use crate::moves::Moves;
use crate::{ExportError, content};

/// The type of a symbolic link.
const LINK: u32 = 0o120_000;
/// The type of a directory.
const DIRECTORY: u32 = 0o040_000;

/// How far a step is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// It can be applied.
    ToDo,
    /// It is applied already.
    Done,
    /// Somebody else changed what the step changes.
    Conflict,
}

/// What the survey found about a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finding {
    pub(crate) state: State,
    /// The object that the step replaces, changes or moves when its turn comes.
    pub(crate) seen: Option<Metadata>,
    /// Of a rename: whether that is what the list says, and no other object that has its name.
    pub(crate) is_recorded: bool,
}

impl Finding {
    fn new(state: State, seen: Option<Metadata>) -> Self {
        Self {
            state,
            seen,
            is_recorded: false,
        }
    }

    fn recorded(state: State, seen: Option<Metadata>) -> Self {
        Self {
            is_recorded: true,
            ..Self::new(state, seen)
        }
    }
}

/// Why nothing can be found out about a step.
enum Trouble {
    /// A symbolic link or a mount is in the way, which another program put there.
    Blocked,
    Fatal(ExportError),
}

impl From<ExportError> for Trouble {
    fn from(error: ExportError) -> Self {
        Self::Fatal(error)
    }
}

struct Surveyor<'a> {
    source: &'a Source,
    target: &'a Target,
    stop: &'a CancelToken,
    /// Whether this is the directory that the list was written for: inode numbers can be compared.
    is_recorded_directory: bool,
    /// All renames of the list.
    renames: Moves<'a>,
    /// The renames that are still to be applied, of those that were surveyed.
    to_do: Moves<'a>,
    /// The steps of those that are applied already.
    done: HashSet<usize>,
    /// Where the objects are now that the renames still take away, and the first step that does so.
    moving: HashMap<Vec<u8>, usize>,
    /// The steps that change what is at a path.
    changing: HashMap<&'a [u8], Vec<usize>>,
    /// The steps that put something at a path.
    filling: HashMap<&'a [u8], Vec<usize>>,
    /// The steps that take something away from a path.
    freeing: HashMap<&'a [u8], Vec<usize>>,
    /// Where the objects that those steps take away are now.
    leaving: HashSet<Vec<u8>>,
}

/// Surveys every step.
pub(crate) fn survey(
    source: &Source,
    target: &Target,
    stop: &CancelToken,
) -> Result<Vec<Finding>, ExportError> {
    let steps = source.steps();
    let identity = target
        .identity()
        .map_err(|error| ExportError::Io(target.path().to_owned(), error))?;
    let mut surveyor = Surveyor {
        source,
        target,
        stop,
        is_recorded_directory: source.list.identity == Some(identity),
        renames: Moves::default(),
        to_do: Moves::default(),
        done: HashSet::new(),
        moving: HashMap::new(),
        changing: HashMap::new(),
        filling: HashMap::new(),
        freeing: HashMap::new(),
        leaving: HashSet::new(),
    };
    for (index, step) in steps.iter().enumerate() {
        match step.change {
            DiffKind::Removed => surveyor.frees(&step.path, index),
            DiffKind::Renamed => {
                surveyor.frees(&step.from, index);
                surveyor.fills(&step.path, index);
                surveyor.renames.add(index, &step.from, &step.path);
            }
            DiffKind::Added => surveyor.fills(&step.path, index),
            DiffKind::Content | DiffKind::Attributes => surveyor.changes(&step.path, index),
            DiffKind::TooDeep => {}
        }
    }
    let mut findings = vec![Finding::new(State::Conflict, None); steps.len()];
    let is_rename = |step: &Step| step.change == DiffKind::Renamed;
    for renames_only in [true, false] {
        for (index, step) in steps.iter().enumerate() {
            if is_rename(step) != renames_only {
                continue;
            }
            stop.check()?;
            let found = match surveyor.look(index, step) {
                Ok(found) => found,
                Err(Trouble::Blocked) => Finding::new(State::Conflict, None),
                Err(Trouble::Fatal(error)) => return Err(error),
            };
            if renames_only {
                surveyor.note_rename(index, step, found.state);
            }
            if let Some(finding) = findings.get_mut(index) {
                *finding = found;
            }
        }
        if renames_only {
            surveyor.note_leaving(steps);
        }
    }
    Ok(findings)
}

impl<'a> Surveyor<'a> {
    fn fills(&mut self, path: &'a Bytes, index: usize) {
        self.filling.entry(path).or_default().push(index);
    }

    fn frees(&mut self, path: &'a Bytes, index: usize) {
        self.freeing.entry(path).or_default().push(index);
    }

    fn changes(&mut self, path: &'a Bytes, index: usize) {
        self.changing.entry(path).or_default().push(index);
    }

    fn note_rename(&mut self, index: usize, step: &'a Step, state: State) {
        if state == State::Done {
            self.done.insert(index);
            return;
        }
        let path = self.locate(&step.from, index);
        self.moving.entry(path).or_insert(index);
        self.to_do.add(index, &step.from, &step.path);
    }

    /// Returns where the object that has this path at a step is now. Earlier renames that are not applied
    /// are still to come.
    fn locate(&self, path: &Bytes, index: usize) -> Vec<u8> {
        let path = self.to_do.back(path, index);
        path.0.strip_prefix(b"/").unwrap_or(&path.0).to_vec()
    }

    fn note_leaving(&mut self, steps: &[Step]) {
        for (index, step) in steps.iter().enumerate() {
            let path = match step.change {
                DiffKind::Removed => &step.path,
                DiffKind::Renamed => &step.from,
                DiffKind::Added | DiffKind::Content | DiffKind::Attributes | DiffKind::TooDeep => {
                    continue;
                }
            };
            let path = self.locate(path, index);
            self.leaving.insert(path);
        }
    }

    fn see(&self, path: &[u8]) -> Result<Option<Metadata>, Trouble> {
        self.target
            .look(path)
            .map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::LOOP | Errno::XDEV) => Trouble::Blocked,
                _ => Trouble::Fatal(ExportError::Io(self.display(path), error)),
            })
    }

    fn display(&self, path: &[u8]) -> PathBuf {
        self.target.path().join(OsStr::from_bytes(path))
    }

    fn look(&self, index: usize, step: &Step) -> Result<Finding, Trouble> {
        match step.change {
            DiffKind::Renamed => self.look_at_rename(index, step),
            DiffKind::Removed => self.look_at_removal(index, step),
            DiffKind::Added => self.look_at_addition(index, step),
            DiffKind::Content | DiffKind::Attributes => self.look_at_change(index, step),
            // No path leads to the object, so nothing is to be done. Exports have no such step.
            DiffKind::TooDeep => Ok(Finding::new(State::Done, None)),
        }
    }

    fn look_at_rename(&self, index: usize, step: &Step) -> Result<Finding, Trouble> {
        let from = self.see(&self.locate(&step.from, index))?;
        let path = self.locate(&step.path, index);
        let to = self.see(&path)?;
        // Later renames may move the object on: this name may only be a temporary one.
        let (last_path, objects) = self.follow(index, step);
        let last = self.see(&last_path)?;
        let Some(before) = step.before else {
            return Ok(Finding::new(State::Conflict, from));
        };
        let stamp_of = |found: Option<Metadata>| found.map(|it| it.stamp());
        let is_it = |found: Option<Metadata>| {
            self.is_recorded_directory
                && stamp_of(found).is_some_and(|it| before.is_same_object(&it))
        };
        let is_like =
            |found: Option<Metadata>| stamp_of(found).is_some_and(|it| before.is_like(&it));
        let mut freeing = self.freeing.get(&*step.path).into_iter().flatten();
        let is_freed = freeing.any(|earlier| *earlier < index);
        let is_refilled = self.filling.get(&*step.from).into_iter().flatten();
        let is_refilled = is_refilled.into_iter().any(|later| *later > index);
        let is_free = to.is_none() || is_freed;
        if is_it(from) {
            let is_to_do = is_like(from) && is_free;
            let state = if is_to_do {
                State::ToDo
            } else {
                State::Conflict
            };
            return Ok(Finding::recorded(state, from));
        }
        if is_it(to) || is_it(last) {
            return Ok(Finding::new(State::Done, from));
        }
        if before.kind == DIRECTORY {
            // The stamp of a directory does not identify the directory.
            let is_to_do = !self.is_recorded_directory
                && is_like(from)
                && is_free
                && (!is_refilled || (to.is_none() && last.is_none()));
            return Ok(if is_to_do {
                Finding::recorded(State::ToDo, from)
            } else {
                Finding::new(State::Conflict, from)
            });
        }
        let mut has_moved = is_like(last) || (is_like(to) && !self.is_leaving(&path, index));
        for object in objects {
            for (path, found) in [(&path, to), (&last_path, last)] {
                let Some(found) = found else { continue };
                let is_whole = object.content.is_some() || found.stamp().size == before.size;
                has_moved = has_moved || (is_whole && self.is_as(path, found, object)?);
            }
        }
        Ok(match (is_like(from), has_moved) {
            (false, true) => Finding::new(State::Done, from),
            (true, false) if is_free => Finding::recorded(State::ToDo, from),
            (true, false) => Finding::recorded(State::Conflict, from),
            // Both names have a file that could be the one that moves, or none has.
            (true, true) | (false, false) => Finding::new(State::Conflict, from),
        })
    }

    /// Returns the path that the later steps move an object to, and the states that they give it.
    fn follow(&self, mut index: usize, step: &'a Step) -> (Vec<u8>, Vec<&'a Object>) {
        let (mut path, mut objects) = (step.path.clone(), Vec::new());
        loop {
            let next = self.renames.next(&path, index);
            let until = next.as_ref().map_or(usize::MAX, |(later, _)| *later);
            let changing = self.changing.get(&*path).into_iter().flatten();
            let here = changing.filter(|at| (index..until).contains(*at));
            let steps = here.filter_map(|at| self.source.steps().get(*at));
            objects.extend(steps.filter_map(|it| it.after.as_ref()));
            match next {
                Some(next) => (index, path) = next,
                None => break,
            }
        }
        let path = path.0.strip_prefix(b"/").unwrap_or(&path.0).to_vec();
        (path, objects)
    }

    /// Returns whether an earlier rename is still to take away what is at a path now.
    fn is_leaving(&self, path: &[u8], index: usize) -> bool {
        self.moving.get(path).is_some_and(|first| *first < index)
    }

    fn look_at_removal(&self, index: usize, step: &Step) -> Result<Finding, Trouble> {
        let path = self.locate(&step.path, index);
        let Some(found) = self.see(&path)? else {
            return Ok(Finding::new(State::Done, None));
        };
        let state = if alike(Some(found.stamp()), step.before) {
            if found.is_dir() && self.has_others(&path)? {
                State::Conflict
            } else {
                State::ToDo
            }
        } else if self.is_filled(index, step, &path, found)? {
            State::Done
        } else {
            State::Conflict
        };
        Ok(Finding::new(state, Some(found)))
    }

    /// Returns whether a later step put the object that is there into the place of the removed one.
    fn is_filled(
        &self,
        index: usize,
        step: &Step,
        path: &[u8],
        found: Metadata,
    ) -> Result<bool, Trouble> {
        let filling = self.filling.get(&*step.path).into_iter().flatten();
        for later in filling.filter(|later| **later > index) {
            if self.done.contains(later) {
                return Ok(true);
            }
            let object = self
                .source
                .steps()
                .get(*later)
                .and_then(|it| it.after.as_ref());
            let Some(object) = object else { continue };
            // A directory gets its attributes last.
            let is_directory = found.is_dir() && object.is_directory();
            if is_directory || self.is_as(path, found, object)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether a directory that is to be removed holds something that stays.
    fn has_others(&self, path: &[u8]) -> Result<bool, Trouble> {
        let failed = |errno: Errno| ExportError::Io(self.display(path), errno.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = beneath::open_on_mount(self.target.root(), path, flags).map_err(failed)?;
        for entry in Dir::new(opened).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            let inner = [path, b"/", name].concat();
            if !matches!(name, b"." | b"..") && !self.leaving.contains(&inner) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn look_at_addition(&self, index: usize, step: &Step) -> Result<Finding, Trouble> {
        let path = self.locate(&step.path, index);
        let object = object_of(self.source, step)?;
        let Some(found) = self.see(&path)? else {
            return Ok(Finding::new(State::ToDo, None));
        };
        let freeing = self.freeing.get(&*step.path).into_iter().flatten();
        let mut earlier = freeing.filter(|earlier| **earlier < index);
        let is_freed = earlier.any(|earlier| !self.done.contains(earlier));
        if is_freed && alike(Some(found.stamp()), step.before) {
            return Ok(Finding::new(State::ToDo, None));
        }
        let state = if self.is_leaving(&path, index) {
            State::Conflict
        } else if self.is_as(&path, found, object)? {
            State::Done
        } else if found.is_dir() && object.is_directory() {
            State::ToDo
        } else {
            State::Conflict
        };
        Ok(Finding::new(state, Some(found)))
    }

    fn look_at_change(&self, index: usize, step: &Step) -> Result<Finding, Trouble> {
        let path = self.locate(&step.path, index);
        let object = object_of(self.source, step)?;
        let Some(found) = self.see(&path)? else {
            return Ok(Finding::new(State::Conflict, None));
        };
        let is_expected = alike(Some(found.stamp()), step.before);
        // A stamp shows whether the content is another, and nothing of the attributes.
        let is_told = is_expected && step.change == DiffKind::Content;
        let state = if !is_told && self.is_as(&path, found, object)? {
            State::Done
        } else if is_expected {
            State::ToDo
        } else {
            State::Conflict
        };
        Ok(Finding::new(state, Some(found)))
    }

    /// Returns whether the object that was found is the one that the branch has.
    fn is_as(&self, path: &[u8], found: Metadata, object: &Object) -> Result<bool, ExportError> {
        // Which of the other bits are kept depends on the owner.
        let is_link = found.kind() == LINK;
        let is_alike = if is_link {
            object.mode & 0o170_000 == LINK
        } else {
            (found.mode ^ object.mode) & 0o171_777 == 0
        };
        if !is_alike {
            return Ok(false);
        }
        if let Some(content) = &object.content {
            return self.has_content(path, content);
        }
        if is_link {
            let location = self.target.locate(path);
            let text =
                location.and_then(|it| Ok(rustix::fs::readlinkat(&it.dir, it.name, Vec::new())?));
            return Ok(text.is_ok_and(|text| text.as_bytes() == &*object.target));
        }
        if found.is_dir() || found.is_file() {
            let is_owner = !rustix::process::geteuid().is_root()
                || (found.uid, found.gid) == (object.uid, object.gid);
            let is_time = found.is_dir() || found.mtime_ns() == object.mtime_ns;
            return Ok(is_owner && is_time && self.has_xattrs(path, object));
        }
        Ok(found.rdev == object.rdev)
    }

    fn has_content(&self, path: &[u8], content: &Bytes) -> Result<bool, ExportError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let Ok(opened) = beneath::open_on_mount(self.target.root(), path, flags) else {
            // Without reading the file it is not known.
            return Ok(false);
        };
        let wanted = self.source.content(content)?;
        match content::is_same(&File::from(opened), &wanted, self.stop) {
            Ok(is_same) => Ok(is_same),
            Err(StepError::Cancelled) => Err(ExportError::Cancelled),
            Err(_) => Ok(false),
        }
    }

    fn has_xattrs(&self, path: &[u8], object: &Object) -> bool {
        if object.xattrs.is_empty() {
            return true;
        }
        let found = HostObject::at(self.target.root(), path);
        found.is_ok_and(|found| {
            let has =
                |(name, value): &(Bytes, Bytes)| found.xattr(name).is_ok_and(|it| it == value.0);
            object.xattrs.iter().all(has)
        })
    }
}

/// Returns the state in which a step leaves its object.
pub(crate) fn object_of<'a>(source: &Source, step: &'a Step) -> Result<&'a Object, ExportError> {
    let missing = || {
        let why = format!("{} has no state after its change", step.path);
        ExportError::List(source.path().join(LIST), why)
    };
    step.after.as_ref().ok_or_else(missing)
}
