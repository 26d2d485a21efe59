//! Translates what the host reports of its directory into changes as FsCore takes them.
//!
//! The host reports system calls; what is emitted is meant for programs that watch. So the writes
//! to an open file are emitted when it is closed, or after a moment when it stays open, and the two
//! halves of a rename are put together.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentfs_core::LowerChange;
use notify::event::{AccessKind, AccessMode, CreateKind, Event, EventKind, ModifyKind};
use notify::event::{RemoveKind, RenameMode};

/// How long a file is written before that is emitted although it is still open.
const WRITING: Duration = Duration::from_millis(50);

/// How long the first half of a rename waits for the second, which follows at once if at all.
const LEAVING: Duration = Duration::from_millis(20);

/// How long what was found by looking is remembered, so that it is not emitted again.
const FOUND: Duration = Duration::from_secs(2);

/// Removed directories that are remembered: the host reports each twice in succession.
const REMOVED: usize = 16;

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Hand this change to FsCore.
    Emit(LowerChange),
    /// Look into this new directory: it may have been filled before it was watched.
    Enter(PathBuf),
    /// Look at everything again: the host has lost events.
    Resync,
}

/// The changes under way.
#[derive(Debug)]
pub(crate) struct Translator {
    root: PathBuf,
    /// The last file that was applied by an exchange: its temporary name, and its place.
    exchanged: Option<(PathBuf, PathBuf)>,
    /// Objects that are removed or moved by way of a temporary name, with the names that they had.
    aside: HashMap<PathBuf, PathBuf>,
    writing: HashMap<PathBuf, Instant>,
    leaving: Vec<Leaving>,
    found: HashMap<PathBuf, Instant>,
    removed: VecDeque<PathBuf>,
    last: Option<LowerChange>,
}

/// A name that went away, and perhaps to another place.
#[derive(Debug)]
struct Leaving {
    tracker: usize,
    path: PathBuf,
    until: Instant,
}

impl Translator {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            exchanged: None,
            aside: HashMap::new(),
            writing: HashMap::new(),
            leaving: Vec::new(),
            found: HashMap::new(),
            removed: VecDeque::new(),
            last: None,
        }
    }

    /// Returns whether an event of the host can mean anything here. Most do not: the daemon itself
    /// opens and reads the files.
    pub(crate) fn concerns(event: &Event) -> bool {
        match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => false,
            EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Other => true,
        }
    }

    /// Takes an event of the host, and returns what is to be done.
    pub(crate) fn hear(&mut self, event: &Event, now: Instant) -> Vec<Step> {
        if event.need_rescan() {
            return vec![Step::Resync];
        }
        let Some(path) = event.paths.first().and_then(|path| self.relative(path)) else {
            return Vec::new();
        };
        let tracker = event.tracker();
        let mut steps = self.settle(&path, tracker);
        match event.kind {
            EventKind::Create(kind) => {
                let is_dir = match kind {
                    CreateKind::Folder => true,
                    CreateKind::File => false,
                    CreateKind::Any | CreateKind::Other => self.is_dir(&path),
                };
                self.created(path, is_dir, &mut steps);
            }
            EventKind::Remove(kind) => {
                self.removed(path, kind == RemoveKind::Folder, &mut steps);
            }
            EventKind::Modify(ModifyKind::Name(mode)) => {
                self.renamed(path, mode, tracker, now, &mut steps);
            }
            EventKind::Modify(ModifyKind::Metadata(_)) => {
                self.emit(LowerChange::Attributes(path), &mut steps);
            }
            EventKind::Modify(_) => {
                self.writing.entry(path).or_insert(now + WRITING);
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                if self.writing.remove(&path).is_some() {
                    self.emit_written(path, &mut steps);
                }
            }
            EventKind::Access(_) | EventKind::Any | EventKind::Other => {}
        }
        steps
    }

    /// Takes a path that was found in a new directory, and returns the change, unless it was
    /// emitted already.
    pub(crate) fn find(&mut self, path: &Path, now: Instant) -> Option<LowerChange> {
        let path = self.relative(path)?;
        if is_own(&path) || self.found.contains_key(&path) {
            return None;
        }
        self.found.insert(path.clone(), now + FOUND);
        let is_dir = self.is_dir(&path);
        Some(LowerChange::Created { path, is_dir })
    }

    /// Returns what has waited long enough.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        self.emit_gone(|it| it.until <= now, &mut steps);
        let written: Vec<PathBuf> = self
            .writing
            .extract_if(|_, until| *until <= now)
            .map(|(path, _)| path)
            .collect();
        for path in written {
            self.emit_written(path, &mut steps);
        }
        self.found.retain(|_, until| *until > now);
        steps
    }

    /// Returns when [`due`](Self::due) is to be called next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let leaving = self.leaving.iter().map(|it| it.until);
        let writing = self.writing.values().copied();
        leaving.chain(writing).min()
    }

    fn relative(&self, path: &Path) -> Option<PathBuf> {
        let path = path.strip_prefix(&self.root).ok()?;
        (path != Path::new("")).then(|| path.to_owned())
    }

    fn is_dir(&self, path: &Path) -> bool {
        std::fs::symlink_metadata(self.root.join(path)).is_ok_and(|it| it.is_dir())
    }

    fn emit(&mut self, change: LowerChange, steps: &mut Vec<Step>) {
        let path = match &change {
            LowerChange::Created { path, .. }
            | LowerChange::Removed { path, .. }
            | LowerChange::Exchanged { other: path, .. }
            | LowerChange::Written(path)
            | LowerChange::Attributes(path)
            | LowerChange::Renamed { to: path, .. } => path,
        };
        // The host reports a directory's attributes for its parent and for itself.
        let repeats =
            matches!(change, LowerChange::Attributes(_)) && self.last.as_ref() == Some(&change);
        if !is_own(path) && !repeats {
            self.last = Some(change.clone());
            steps.push(Step::Emit(change));
        }
    }

    fn emit_written(&mut self, path: PathBuf, steps: &mut Vec<Step>) {
        self.emit(LowerChange::Written(path), steps);
    }

    /// Emits first what was removed at this path, above it or below it.
    fn settle(&mut self, path: &Path, tracker: Option<usize>) -> Vec<Step> {
        let mut steps = Vec::new();
        let concerned = |it: &Leaving| {
            Some(it.tracker) != tracker && (path.starts_with(&it.path) || it.path.starts_with(path))
        };
        self.emit_gone(concerned, &mut steps);
        steps
    }

    fn emit_gone(&mut self, which: impl Fn(&Leaving) -> bool, steps: &mut Vec<Step>) {
        let gone: Vec<Leaving> = self.leaving.extract_if(.., |it| which(it)).collect();
        for Leaving { path, .. } in gone {
            let is_dir = false;
            self.emit(LowerChange::Removed { path, is_dir }, steps);
        }
    }

    fn created(&mut self, path: PathBuf, is_dir: bool, steps: &mut Vec<Step>) {
        self.removed.retain(|it| *it != path);
        if self.found.remove(&path).is_some() {
            return;
        }
        let created = LowerChange::Created {
            path: path.clone(),
            is_dir,
        };
        self.emit(created, steps);
        if is_dir {
            steps.push(Step::Enter(self.root.join(path)));
        }
    }

    fn removed(&mut self, path: PathBuf, is_dir: bool, steps: &mut Vec<Step>) {
        self.writing.remove(&path);
        self.found.remove(&path);
        if let Some(path) = self.aside.remove(&path) {
            return self.emit(LowerChange::Removed { path, is_dir }, steps);
        }
        if let Some(at) = self.removed.iter().position(|it| *it == path) {
            self.removed.remove(at);
            return;
        }
        if is_dir {
            self.removed.truncate(REMOVED - 1);
            self.removed.push_front(path.clone());
        }
        self.emit(LowerChange::Removed { path, is_dir }, steps);
    }

    fn renamed(
        &mut self,
        path: PathBuf,
        mode: RenameMode,
        tracker: Option<usize>,
        now: Instant,
        steps: &mut Vec<Step>,
    ) {
        match (mode, tracker) {
            (RenameMode::From, Some(tracker)) => {
                self.found.remove(&path);
                let until = now + LEAVING;
                self.leaving.push(Leaving {
                    tracker,
                    path,
                    until,
                });
            }
            (RenameMode::To, Some(tracker)) => {
                let from = self.leaving.iter().position(|it| it.tracker == tracker);
                match from.map(|at| self.leaving.remove(at).path) {
                    Some(from) => self.moved(from, path, steps),
                    None => {
                        let is_dir = self.is_dir(&path);
                        self.created(path, is_dir, steps);
                    }
                }
            }
            // The host reports only that something moved here or away.
            (RenameMode::Any, _) => match std::fs::symlink_metadata(self.root.join(&path)) {
                Ok(now) => self.created(path, now.is_dir(), steps),
                Err(_) => self.removed(path, false, steps),
            },
            // The watched directory itself moved; the event of its parent says more.
            (RenameMode::From | RenameMode::To | RenameMode::Both | RenameMode::Other, _) => {}
        }
    }

    fn moved(&mut self, from: PathBuf, to: PathBuf, steps: &mut Vec<Step>) {
        self.removed.retain(|it| *it != to);
        if let Some(until) = self.writing.remove(&from) {
            self.writing.insert(to.clone(), until);
        }
        // The host reports an exchange of names as two renames in succession.
        let exchanged = self.exchanged.take();
        let is_dir = self.is_dir(&to);
        let change = match (is_own(&from), is_own(&to)) {
            (true, _) => {
                let was = self.aside.remove(&from);
                self.exchanged = Some((from, to.clone()));
                match was {
                    Some(from) if from == to => return,
                    Some(from) => LowerChange::Renamed { from, to, is_dir },
                    None => LowerChange::Created { path: to, is_dir },
                }
            }
            (false, true) => {
                if exchanged.is_none_or(|it| it != (to.clone(), from.clone())) {
                    self.aside.insert(to, from);
                }
                return;
            }
            (false, false) => {
                self.emit(LowerChange::Renamed { from, to, is_dir }, steps);
                return;
            }
        };
        self.emit(change, steps);
    }
}

/// Returns whether this is a temporary name of an apply, by whatever process.
fn is_own(path: &Path) -> bool {
    let name = path.file_name().map_or(b"".as_slice(), OsStr::as_bytes);
    agentfs_core::is_temporary(name)
}
