//! On systems whose watchers take a whole tree, all directories of the host are watched, or none.
//! Branches are mounted on Linux only, so no kernel keeps what was answered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::lower::LowerCounts;

/// What is watched of the lower directory.
pub(crate) struct Coverage {
    root: PathBuf,
    counts: Arc<LowerCounts>,
}

impl Coverage {
    pub(crate) fn new(root: &Path, counts: &Arc<LowerCounts>) -> Self {
        Self {
            root: root.to_owned(),
            counts: Arc::clone(counts),
        }
    }

    /// Watches the lower directory, and everything below with it. Calls `found` with everything in
    /// another directory. Returns whether it is watched.
    pub(crate) fn cover(
        &mut self,
        directory: &Path,
        watcher: Option<&mut RecommendedWatcher>,
        found: &mut dyn FnMut(PathBuf),
    ) -> bool {
        if directory != self.root {
            list(directory, found);
            return true;
        }
        let is_watched = watcher.is_some_and(|watcher| {
            let watched = watcher.watch(directory, RecursiveMode::Recursive);
            if let Err(error) = &watched {
                tracing::warn!(%error, "the lower directory is not watched");
            }
            watched.is_ok()
        });
        self.counts
            .watched
            .store(u64::from(is_watched), Ordering::Relaxed);
        self.counts
            .unavailable
            .store(u64::from(!is_watched), Ordering::Relaxed);
        is_watched
    }
}

fn list(directory: &Path, found: &mut dyn FnMut(PathBuf)) {
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        // The directory may be gone again.
        let entries = std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries {
            if entry.file_type().is_ok_and(|it| it.is_dir()) {
                open.push(entry.path());
            }
            found(entry.path());
        }
    }
}
