//! Looks how far the host is from each change of a list, before anything is done: what is as the
//! list expects it, what is done already, and what somebody else changed.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use agentfs_core::beneath;
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::DiffKind;
use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;

use super::error::StepError;
use super::pinned::Pinned;
use super::source::Source;
use super::stop::Stop;
use super::target::{Found, Target};
use super::{ExportError, Object, Step, alike, content, moved};

/// The type of a symbolic link.
const LINK: u32 = 0o120_000;

/// What is to be done about a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// It can be made.
    ToDo,
    /// It is made already.
    Done,
    /// Somebody else changed what it changes.
    Conflict,
}

/// What was found about a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) state: State,
    /// What it takes the place of, changes or moves, when its turn comes.
    pub(super) seen: Option<Found>,
}

impl Look {
    fn new(state: State, seen: Option<Found>) -> Self {
        Self { state, seen }
    }
}

/// Why there is no look.
enum Trouble {
    /// A symbolic link or a mount is in the way, which somebody else put there.
    Blocked,
    Fatal(ExportError),
}

impl From<ExportError> for Trouble {
    fn from(error: ExportError) -> Self {
        Self::Fatal(error)
    }
}

struct Rename<'a> {
    index: usize,
    from: &'a Bytes,
    to: &'a Bytes,
    is_done: bool,
}

struct Looker<'a> {
    source: &'a Source,
    target: &'a Target,
    stop: &'a Stop,
    renames: Vec<Rename<'a>>,
    /// Steps that put something at a path.
    filling: HashMap<&'a [u8], Vec<usize>>,
    /// Steps that take something away from a path.
    freeing: HashMap<&'a [u8], Vec<usize>>,
    /// Where what they take away is now.
    leaving: HashSet<Vec<u8>>,
}

/// Looks at every step.
pub(super) fn look(
    source: &Source,
    target: &Target,
    stop: &Stop,
) -> Result<Vec<Look>, ExportError> {
    let steps = source.steps();
    let mut looker = Looker {
        source,
        target,
        stop,
        renames: Vec::new(),
        filling: HashMap::new(),
        freeing: HashMap::new(),
        leaving: HashSet::new(),
    };
    for (index, step) in steps.iter().enumerate() {
        match step.change {
            DiffKind::Removed => looker.frees(&step.path, index),
            DiffKind::Renamed => {
                looker.frees(&step.from, index);
                looker.fills(&step.path, index);
            }
            DiffKind::Added => looker.fills(&step.path, index),
            DiffKind::Content | DiffKind::Attributes | DiffKind::TooDeep => {}
        }
    }
    let mut looks = vec![Look::new(State::Conflict, None); steps.len()];
    let is_rename = |step: &Step| step.change == DiffKind::Renamed;
    for renames_only in [true, false] {
        for (index, step) in steps.iter().enumerate() {
            if is_rename(step) != renames_only {
                continue;
            }
            stop.check()?;
            let found = match looker.look(index, step) {
                Ok(found) => found,
                Err(Trouble::Blocked) => Look::new(State::Conflict, None),
                Err(Trouble::Fatal(error)) => return Err(error),
            };
            if renames_only {
                looker.renames.push(Rename {
                    index,
                    from: &step.from,
                    to: &step.path,
                    is_done: found.state == State::Done,
                });
            }
            if let Some(look) = looks.get_mut(index) {
                *look = found;
            }
        }
        if renames_only {
            looker.note_leaving(steps);
        }
    }
    Ok(looks)
}

impl<'a> Looker<'a> {
    fn fills(&mut self, path: &'a Bytes, index: usize) {
        self.filling.entry(path).or_default().push(index);
    }

    fn frees(&mut self, path: &'a Bytes, index: usize) {
        self.freeing.entry(path).or_default().push(index);
    }

    /// Where what has this path at a step is now: the renames before it that are not made are still
    /// to come.
    fn locate(&self, path: &Bytes, index: usize) -> Vec<u8> {
        let mut path = path.clone();
        let earlier = self.renames.iter().rev();
        for rename in earlier.filter(|it| it.index < index && !it.is_done) {
            if let Some(back) = moved(&path, rename.to, rename.from) {
                path = back;
            }
        }
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

    fn see(&self, path: &[u8]) -> Result<Option<Found>, Trouble> {
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

    fn look(&self, index: usize, step: &Step) -> Result<Look, Trouble> {
        match step.change {
            DiffKind::Renamed => self.look_at_rename(index, step),
            DiffKind::Removed => self.look_at_removal(index, step),
            DiffKind::Added => self.look_at_addition(index, step),
            DiffKind::Content | DiffKind::Attributes => self.look_at_change(index, step),
            // There is no path to it, and nothing to do. Exports have no such step.
            DiffKind::TooDeep => Ok(Look::new(State::Done, None)),
        }
    }

    fn look_at_rename(&self, index: usize, step: &Step) -> Result<Look, Trouble> {
        let from = self.see(&self.locate(&step.from, index))?;
        let to = self.see(&self.locate(&step.path, index))?;
        // What only is out of the way for another moves on by a later step.
        let mut last = &step.path;
        let later = self.source.steps().iter().skip(index + 1);
        for next in later.filter(|it| it.change == DiffKind::Renamed && it.from == step.path) {
            last = &next.path;
        }
        let last = self.see(last.0.strip_prefix(b"/").unwrap_or(last))?;
        let is_it = |found: Option<Found>| {
            let both = step.before.zip(found);
            both.is_some_and(|(before, found)| before.is_same_object(&found.stamp()))
        };
        let has_moved = (is_it(to) || is_it(last)) && !is_it(from);
        let kind = step.mode & 0o170_000;
        let is_there = from.is_none() && to.is_some_and(|it| it.kind() == kind);
        let state = if has_moved || is_there {
            State::Done
        } else if from.is_some() && alike(from.map(|it| it.stamp()), step.before) {
            State::ToDo
        } else {
            State::Conflict
        };
        Ok(Look::new(state, from))
    }

    fn look_at_removal(&self, index: usize, step: &Step) -> Result<Look, Trouble> {
        let path = self.locate(&step.path, index);
        let Some(found) = self.see(&path)? else {
            return Ok(Look::new(State::Done, None));
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
        Ok(Look::new(state, Some(found)))
    }

    /// Whether a later step put what is there into the place of what was removed.
    fn is_filled(
        &self,
        index: usize,
        step: &Step,
        path: &[u8],
        found: Found,
    ) -> Result<bool, Trouble> {
        let filling = self.filling.get(&*step.path).into_iter().flatten();
        for later in filling.filter(|later| **later > index) {
            let renamed = self.renames.iter().find(|it| it.index == *later);
            if renamed.is_some_and(|it| it.is_done) {
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

    /// Whether a directory that is to go has something that does not go.
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

    fn look_at_addition(&self, index: usize, step: &Step) -> Result<Look, Trouble> {
        let path = self.locate(&step.path, index);
        let object = object_of(self.source, step)?;
        let Some(found) = self.see(&path)? else {
            return Ok(Look::new(State::ToDo, None));
        };
        let freeing = self.freeing.get(&*step.path).into_iter().flatten();
        let is_freed = freeing.into_iter().any(|earlier| *earlier < index);
        if is_freed && alike(Some(found.stamp()), step.before) {
            return Ok(Look::new(State::ToDo, None));
        }
        let state = if self.is_as(&path, found, object)? {
            State::Done
        } else if found.is_dir() && object.is_directory() {
            State::ToDo
        } else {
            State::Conflict
        };
        Ok(Look::new(state, Some(found)))
    }

    fn look_at_change(&self, index: usize, step: &Step) -> Result<Look, Trouble> {
        let path = self.locate(&step.path, index);
        let object = object_of(self.source, step)?;
        let Some(found) = self.see(&path)? else {
            return Ok(Look::new(State::Conflict, None));
        };
        let is_expected = alike(Some(found.stamp()), step.before);
        // A stamp tells of another content, and nothing of the attributes.
        let is_told = is_expected && step.change == DiffKind::Content;
        let state = if !is_told && self.is_as(&path, found, object)? {
            State::Done
        } else if is_expected {
            State::ToDo
        } else {
            State::Conflict
        };
        Ok(Look::new(state, Some(found)))
    }

    /// Whether what is there is what the branch has.
    fn is_as(&self, path: &[u8], found: Found, object: &Object) -> Result<bool, ExportError> {
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
            let spot = self.target.spot(path);
            let text =
                spot.and_then(|it| Ok(rustix::fs::readlinkat(&it.dir, it.name, Vec::new())?));
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
            // It cannot be told.
            return Ok(false);
        };
        let wanted = self.source.content(content)?;
        match content::is_same(&File::from(opened), &wanted, self.stop) {
            Ok(is_same) => Ok(is_same),
            Err(StepError::Stopped) => Err(ExportError::Stopped),
            Err(_) => Ok(false),
        }
    }

    fn has_xattrs(&self, path: &[u8], object: &Object) -> bool {
        if object.xattrs.is_empty() {
            return true;
        }
        let pinned = Pinned::at(self.target.root(), path);
        pinned.is_ok_and(|pinned| {
            let has =
                |(name, value): &(Bytes, Bytes)| pinned.xattr(name).is_ok_and(|it| it == value.0);
            object.xattrs.iter().all(has)
        })
    }
}

/// What a step leaves.
pub(super) fn object_of<'a>(source: &Source, step: &'a Step) -> Result<&'a Object, ExportError> {
    let missing = || {
        let why = format!("{} has no state after its change", step.path);
        ExportError::List(source.path().join(super::LIST), why)
    };
    step.after.as_ref().ok_or_else(missing)
}
