//! Which directories of the host are watched, and why others are not.
//!
//! Every directory is watched by itself, so the state of each is known. What was answered for a
//! directory that is not watched is looked at again (`Announced` of FsCore), and the status reports how
//! many such directories there are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agentfs_core::FsCore;
use rustix::io::Errno;

use super::tree::Key;
use crate::lower::{LowerCounts, filesystem, inotify_limit};

/// Why changes in a directory are not reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gap {
    /// The user's inotify watches are used up.
    Limit,
    /// Other machines may change the filesystem, and it does not report when.
    Remote,
    /// The directory may not be read, its path is too long, or it is watched by another path.
    Refused,
    /// There is no watcher at all.
    Unavailable,
}

impl Gap {
    /// Returns why a directory could not be watched.
    pub(super) fn of(errno: Errno) -> Self {
        match errno {
            Errno::NOSPC => Self::Limit,
            Errno::NOSYS => Self::Unavailable,
            _ => Self::Refused,
        }
    }
}

/// What is watched of the lower directory.
pub(super) struct Coverage {
    core: FsCore,
    root: PathBuf,
    /// The directories whose changes are not reported.
    gaps: HashMap<Key, Gap>,
    /// Whether the filesystem of a device is changed by this machine alone.
    local: HashMap<u64, bool>,
    counts: Arc<LowerCounts>,
    has_warned: bool,
}

impl Coverage {
    pub(super) fn new(core: &FsCore, root: &Path, counts: &Arc<LowerCounts>) -> Self {
        Self {
            core: core.clone(),
            root: root.to_owned(),
            gaps: HashMap::new(),
            local: HashMap::new(),
            counts: Arc::clone(counts),
            has_warned: false,
        }
    }

    /// Returns whether this machine alone changes the filesystem of a directory.
    pub(super) fn is_local(&mut self, device: u64, directory: &Path) -> bool {
        let root = &self.root;
        let look = || filesystem::of(&root.join(directory)).is_local;
        *self.local.entry(device).or_insert_with(look)
    }

    /// Records that a directory is watched, or why it is not.
    pub(super) fn add(&mut self, key: Key, directory: &Path, gap: Option<Gap>) {
        match gap {
            None => {
                self.gaps.remove(&key);
                if let Some(announced) = self.core.announced() {
                    announced.add(directory);
                }
            }
            Some(gap) => drop(self.gaps.insert(key, gap)),
        }
    }

    /// Forgets directories that are gone: one at this path, and those below it.
    pub(super) fn remove(&mut self, directory: &Path, gone: impl IntoIterator<Item = Key>) {
        let mut count = 0;
        for key in gone {
            count += 1;
            self.gaps.remove(&key);
        }
        if let Some(announced) = self.core.announced() {
            if count > 1 {
                announced.remove(directory);
            } else {
                announced.forget(directory);
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.gaps.clear();
        if let Some(announced) = self.core.announced() {
            announced.remove(Path::new(""));
        }
    }

    /// Records the new paths of directories that were at these paths, or below them.
    pub(super) fn rename(&self, from: &[PathBuf], to: &[(Key, PathBuf)]) {
        let Some(announced) = self.core.announced() else {
            return;
        };
        for from in from {
            announced.remove(from);
        }
        for (key, directory) in to {
            if !self.gaps.contains_key(key) {
                announced.add(directory);
            }
        }
    }

    /// Records that the host has reported something.
    pub(super) fn report(&self) {
        if let Some(announced) = self.core.announced() {
            announced.report();
        }
    }

    /// Publishes what is counted.
    pub(super) fn count(&mut self) {
        let Some(announced) = self.core.announced() else {
            return;
        };
        announced.set_whole(self.gaps.is_empty());
        let of = |gap| self.gaps.values().filter(|it| **it == gap).count() as u64;
        let over_limit = of(Gap::Limit);
        let counts = &self.counts;
        for (counter, value) in [
            (&counts.watched, announced.count() as u64),
            (&counts.over_limit, over_limit),
            (&counts.remote, of(Gap::Remote)),
            (&counts.refused, of(Gap::Refused)),
            (&counts.unavailable, of(Gap::Unavailable)),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
        if over_limit > 0 && !self.has_warned {
            tracing::warn!(
                lower = %self.root.display(),
                directories = over_limit,
                "programs will not hear of some changes that the host makes: every directory takes \
                 an inotify watch, and there may be no more; allow more with: {}",
                inotify_limit::allow_more()
            );
        }
        self.has_warned = over_limit > 0;
    }
}
