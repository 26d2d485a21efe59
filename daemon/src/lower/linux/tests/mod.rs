//! Tests that a replay of what is emitted leads to the tree that the host has, however late the
//! events are looked at.

mod barrier;
mod named;
mod random;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use agentfs_core::event::{Change, Envelope, EventKind, EventSink, Place, RenameHow};
use agentfs_core::{Branch, FsConfig, FsCore, Overlay};
use agentfs_testkit::churn::Paths;
use tempfile::TempDir;

use super::{LowerCounts, Task};

/// What a program knows that started from a listing and heard the events since.
#[derive(Default)]
struct Replay {
    paths: Mutex<Paths>,
    /// The events, and what was wrong with them.
    heard: Mutex<Vec<String>>,
}

impl Replay {
    fn change(&self, change: &Change) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let path = |at: &Place| at.path();
        let mut heard = format!("{change:?}");
        match change {
            Change::Created { node, at, .. } => {
                heard = format!("created {:?}", path(at));
                paths.created(&path(at), node.kind.is_dir());
            }
            Change::Removed { at, .. } => {
                heard = format!("removed {:?}", path(at));
                paths.removed(&path(at));
            }
            Change::Renamed { from, to, how, .. } => {
                heard = format!("renamed {:?} {:?} {how:?}", path(from), path(to));
                let (from, to) = (path(from), path(to));
                match how {
                    RenameHow::ExchangeFirst(_) => paths.exchanged(&from, &to),
                    RenameHow::ExchangeSecond(_) => {}
                    RenameHow::Free | RenameHow::Replaced(_) => paths.renamed(&from, &to),
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
            paths: Mutex::new(Paths::of(lower.path())),
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
        let now = Paths::of(self.lower.path());
        self.replay.paths.lock().unwrap().difference(&now)
    }

    fn check(&mut self) -> Result<(), String> {
        match self.difference() {
            Some(difference) => Err(format!("{difference}: {:#?}", self.heard())),
            None => Ok(()),
        }
    }

    #[track_caller]
    fn is_exact(&mut self) -> Vec<String> {
        let difference = self.difference();
        let heard = self.heard();
        assert_eq!(difference, None, "{heard:#?}");
        heard
    }
}
