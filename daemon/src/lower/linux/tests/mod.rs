//! Tests that a replay of what is emitted leads to the tree that the host has, however late the
//! events are looked at.

mod named;
mod random;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use agentfs_core::event::{Change, Envelope, EventKind, EventSink, NodeRef, Place, RenameHow};
use agentfs_core::{Branch, FsConfig, FsCore, Overlay};
use tempfile::TempDir;

use super::{LowerCounts, Task};

/// The paths of a tree, and whether they are those of directories.
type Paths = BTreeMap<PathBuf, bool>;

/// What a program knows that started from a listing and heard the events since.
#[derive(Default)]
struct Replay {
    paths: Mutex<Paths>,
    /// The events, and what was wrong with them.
    heard: Mutex<Vec<String>>,
}

fn is_at_or_below(path: &Path, dir: &Path) -> bool {
    path.starts_with(dir)
}

/// Takes a path with everything below it.
fn take(paths: &mut Paths, at: &Path) -> Paths {
    let all = std::mem::take(paths);
    let (taken, left) = all
        .into_iter()
        .partition(|(path, _)| is_at_or_below(path, at));
    *paths = left;
    taken
}

/// Puts what was taken from one path to another one.
fn put(paths: &mut Paths, taken: Paths, from: &Path, to: &Path) {
    paths.extend(taken.into_iter().map(|(path, is_dir)| {
        let rest = path.strip_prefix(from).unwrap();
        let path = if rest == Path::new("") {
            to.to_owned()
        } else {
            to.join(rest)
        };
        (path, is_dir)
    }));
}

impl Replay {
    fn change(&self, change: &Change) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let path = |at: &Place| at.path();
        let is_dir = |node: &NodeRef| node.kind.is_dir();
        let mut heard = format!("{change:?}");
        match change {
            Change::Created { node, at, .. } => {
                heard = format!("created {:?}", path(at));
                take(&mut paths, &path(at));
                paths.insert(path(at), is_dir(node));
            }
            Change::Removed { at, .. } => {
                heard = format!("removed {:?}", path(at));
                take(&mut paths, &path(at));
            }
            Change::Renamed { from, to, how, .. } => {
                heard = format!("renamed {:?} {:?} {how:?}", path(from), path(to));
                let (from, to) = (path(from), path(to));
                if !matches!(how, RenameHow::ExchangeSecond(_)) {
                    let one = take(&mut paths, &from);
                    let other = take(&mut paths, &to);
                    if one.is_empty() {
                        heard.push_str(": nothing was there");
                    }
                    put(&mut paths, one, &from, &to);
                    if matches!(how, RenameHow::ExchangeFirst(_)) {
                        put(&mut paths, other, &to, &from);
                    }
                }
            }
            Change::Written { at, .. } => heard = format!("written {:?}", at.as_ref().map(path)),
            Change::Attributes { .. }
            | Change::Resized { .. }
            | Change::Xattr { .. }
            | Change::BranchCreated { .. }
            | Change::SnapshotCreated { .. }
            | Change::Opened { .. }
            | Change::Read { .. }
            | Change::Closed { .. } => {}
        }
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(heard);
    }
}

impl EventSink for Replay {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        self.change(&envelope.change);
    }
}

/// Returns the paths below a directory of the host.
fn walk(root: &Path) -> Paths {
    let mut paths = Paths::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let is_dir = entry.file_type().is_ok_and(|it| it.is_dir());
            let path = Path::new("/").join(entry.path().strip_prefix(root).unwrap());
            paths.insert(path, is_dir);
            if is_dir {
                open.push(entry.path());
            }
        }
    }
    paths
}

/// A watcher over a directory that looks when a test says so.
struct World {
    lower: TempDir,
    outside: TempDir,
    main: Branch,
    task: Task,
    replay: Arc<Replay>,
    has_resynced: Arc<AtomicBool>,
}

impl World {
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        let lower = tempfile::tempdir().unwrap();
        prepare(lower.path());
        let core = FsCore::new(FsConfig {
            overlay: Some(Overlay {
                lower: lower.path().to_owned(),
            }),
            ..FsConfig::default()
        })
        .unwrap();
        let has_resynced = Arc::<AtomicBool>::default();
        let resynced = Arc::clone(&has_resynced);
        let resync = move || resynced.store(true, Ordering::Relaxed);
        let counts = Arc::<LowerCounts>::default();
        let mut task = Task::new(&core, lower.path(), Box::new(resync), &counts).unwrap();
        task.catch_up();
        let replay = Arc::new(Replay {
            paths: Mutex::new(walk(lower.path())),
            heard: Mutex::default(),
        });
        core.subscribe_events(replay.clone()).unwrap();
        Self {
            outside: tempfile::tempdir().unwrap(),
            main: core.branch(FsCore::MAIN).unwrap(),
            lower,
            task,
            replay,
            has_resynced,
        }
    }

    fn host(&self, path: &str) -> PathBuf {
        self.lower.path().join(path)
    }

    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.replay.heard.lock().unwrap())
    }

    /// Looks at all events. Returns how the replay differs from the host.
    fn difference(&mut self) -> Option<String> {
        self.task.catch_up();
        if self.has_resynced.swap(false, Ordering::Relaxed) {
            return None;
        }
        let now = walk(self.lower.path());
        let replayed = self.replay.paths.lock().unwrap();
        let left = |one: &Paths, other: &Paths| -> Vec<PathBuf> {
            let differs = |it: &(&PathBuf, &bool)| other.get(it.0) != Some(it.1);
            one.iter()
                .filter(differs)
                .map(|(path, _)| path.clone())
                .collect()
        };
        let (missing, ghosts) = (left(&now, &replayed), left(&replayed, &now));
        let is_same = missing.is_empty() && ghosts.is_empty();
        (!is_same).then(|| format!("missing {missing:?}, ghosts {ghosts:?}"))
    }

    #[track_caller]
    fn is_exact(&mut self) -> Vec<String> {
        let difference = self.difference();
        let heard = self.heard();
        assert_eq!(difference, None, "{heard:#?}");
        heard
    }
}
