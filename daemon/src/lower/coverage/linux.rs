//! Which directories of the host are watched, and why others are not.
//!
//! Every directory is watched by itself, so the state of each is known. What was answered for a
//! directory that is not watched is looked at again (`Announced` of FsCore), and the status reports how
//! many such directories there are.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agentfs_core::FsCore;
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::lower::LowerCounts;
use crate::lower::filesystem;

/// Why changes in a directory are not reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gap {
    /// The user's inotify watches are used up.
    Limit,
    /// Other machines may change the filesystem, and it does not report when.
    Remote,
    /// The directory may not be read, or its path is too long.
    Refused,
    /// There is no watcher at all.
    Unavailable,
}

/// What is watched of the lower directory.
pub(crate) struct Coverage {
    core: FsCore,
    root: PathBuf,
    /// The directories whose changes are not reported, relative to the root.
    gaps: BTreeMap<PathBuf, Gap>,
    counts: Arc<LowerCounts>,
}

impl Coverage {
    pub(crate) fn new(core: &FsCore, root: &Path, counts: &Arc<LowerCounts>) -> Self {
        Self {
            core: core.clone(),
            root: root.to_owned(),
            gaps: BTreeMap::new(),
            counts: Arc::clone(counts),
        }
    }

    /// Watches a directory and all below it, those nearest to the root first. Each is watched
    /// before it is listed, so nothing that is created in it is missed. Calls `found` with
    /// everything in them. Returns whether changes are reported in all of them.
    pub(crate) fn cover(
        &mut self,
        directory: &Path,
        mut watcher: Option<&mut RecommendedWatcher>,
        found: &mut dyn FnMut(PathBuf),
    ) -> bool {
        let mut open = VecDeque::from([directory.to_owned()]);
        let mut local = HashMap::new();
        let (mut is_full, mut is_whole) = (false, true);
        while let Some(directory) = open.pop_front() {
            let gap = match fs::symlink_metadata(&directory) {
                Ok(found) if !found.is_dir() => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => Some(Gap::Refused),
                Ok(found) => {
                    let is_local = *local
                        .entry(found.dev())
                        .or_insert_with(|| filesystem::of(&directory).is_local);
                    match watcher.as_deref_mut() {
                        None => Some(Gap::Unavailable),
                        Some(_) if is_full => Some(Gap::Limit),
                        Some(watcher) => match watch(&directory, watcher) {
                            Watched::Gone => continue,
                            Watched::No(gap) => Some(gap),
                            Watched::Yes => (!is_local).then_some(Gap::Remote),
                        },
                    }
                }
            };
            is_full |= gap == Some(Gap::Limit);
            is_whole &= gap.is_none();
            self.note(&directory, gap);
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|it| it.is_dir()) {
                    open.push_back(entry.path());
                }
                found(entry.path());
            }
        }
        self.count();
        is_whole
    }

    fn note(&mut self, directory: &Path, gap: Option<Gap>) {
        let Ok(directory) = directory.strip_prefix(&self.root) else {
            return;
        };
        match gap {
            None => {
                self.gaps.remove(directory);
                if let Some(announced) = self.core.announced() {
                    announced.add(directory);
                }
            }
            Some(gap) => {
                self.gaps.insert(directory.to_owned(), gap);
            }
        }
    }

    /// Forgets a directory that does not exist any more, with everything that was below it.
    pub(crate) fn uncover(&mut self, directory: &Path) {
        if let Some(announced) = self.core.announced() {
            announced.remove(directory);
        }
        self.gaps.retain(|other, _| !other.starts_with(directory));
        self.count();
    }

    /// Forgets a name that is gone. Before the host reports that a directory was removed, it has
    /// reported that of everything below it.
    pub(crate) fn gone(&mut self, path: &Path, is_dir: bool) {
        let Some(announced) = self.core.announced() else {
            return;
        };
        if !announced.has(path) && !self.gaps.contains_key(path) {
            return;
        }
        if is_dir {
            announced.forget(path);
            self.gaps.remove(path);
            self.count();
        } else {
            // It was moved out of the lower directory, with everything below it.
            self.uncover(path);
        }
    }

    fn count(&self) {
        let Some(announced) = self.core.announced() else {
            return;
        };
        announced.set_whole(self.gaps.is_empty());
        let of = |gap| self.gaps.values().filter(|it| **it == gap).count() as u64;
        let counts = &self.counts;
        for (counter, value) in [
            (&counts.watched, announced.count() as u64),
            (&counts.over_limit, of(Gap::Limit)),
            (&counts.remote, of(Gap::Remote)),
            (&counts.refused, of(Gap::Refused)),
            (&counts.unavailable, of(Gap::Unavailable)),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
    }
}

enum Watched {
    Yes,
    No(Gap),
    Gone,
}

fn watch(directory: &Path, watcher: &mut RecommendedWatcher) -> Watched {
    let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) else {
        return Watched::Yes;
    };
    match &error.kind {
        ErrorKind::MaxFilesWatch => Watched::No(Gap::Limit),
        ErrorKind::PathNotFound | ErrorKind::WatchNotFound => Watched::Gone,
        ErrorKind::Io(error) if error.kind() == io::ErrorKind::NotFound => Watched::Gone,
        ErrorKind::Generic(_) | ErrorKind::Io(_) | ErrorKind::InvalidConfig(_) => {
            tracing::debug!(directory = %directory.display(), %error, "a directory is not watched");
            Watched::No(Gap::Refused)
        }
    }
}
