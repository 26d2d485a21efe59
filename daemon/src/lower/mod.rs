//! The directory below the branches: the changes that the host makes there are handed to FsCore.
//!
//! One thread watches it. On Linux each directory takes one inotify watch. Where the system does not
//! allow so many, changes in the other directories are not reported: each look at them asks the host
//! again, and the log says how to allow more. When the host's queue overflows, the mounts forget
//! everything, and every queue gets an overflow record.

pub mod filesystem;
pub mod inotify_limit;
pub(crate) mod missed;
#[cfg_attr(target_os = "linux", path = "linux/mod.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other/mod.rs")]
mod platform;
pub(crate) mod seen;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use agentfs_core::FsCore;

use self::platform::{Task, Waker};
use self::seen::Seen;

/// How long starting waits for all directories to be watched.
const PATIENCE: Duration = Duration::from_secs(2);

/// Called when changes were missed.
pub(crate) type Resync = Box<dyn Fn() + Send>;

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct LowerCounts {
    /// Changes of the host that were handed to FsCore.
    pub(crate) emitted: AtomicU64,
    /// How often everything had to look again.
    pub(crate) resyncs: AtomicU64,
    /// Directories whose changes are reported.
    pub(crate) watched: AtomicU64,
    /// Directories that are not watched because the user's watches are used up.
    pub(crate) over_limit: AtomicU64,
    /// Directories on filesystems that other machines change too, and that do not report it.
    pub(crate) remote: AtomicU64,
    /// Directories that may not be watched.
    pub(crate) refused: AtomicU64,
    /// Directories that are not watched because there is no watcher.
    pub(crate) unavailable: AtomicU64,
}

impl LowerCounts {
    /// Returns what is counted, by name.
    pub(crate) fn values(&self) -> [(&'static str, u64); 8] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let gaps = [
            &self.over_limit,
            &self.remote,
            &self.refused,
            &self.unavailable,
        ];
        [
            ("lower_changes", of(&self.emitted)),
            ("lower_resyncs", of(&self.resyncs)),
            ("lower_dirs_watched", of(&self.watched)),
            ("lower_dirs_unwatched", gaps.into_iter().map(of).sum()),
            ("lower_dirs_over_limit", of(&self.over_limit)),
            ("lower_dirs_remote", of(&self.remote)),
            ("lower_dirs_refused", of(&self.refused)),
            ("lower_dirs_without_watcher", of(&self.unavailable)),
        ]
    }
}

/// Watches the directory until it is dropped.
#[derive(Debug)]
pub(crate) struct LowerWatch {
    waker: Waker,
    /// Set when nothing needs what is still in the queue.
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<LowerCounts>,
}

impl LowerWatch {
    /// Watches from a new thread. Returns when everything is watched, unless that takes long.
    /// The thread notes up to when everything is emitted.
    pub(crate) fn start(
        core: &FsCore,
        root: &Path,
        resync: Resync,
        seen: Option<Arc<Seen>>,
    ) -> io::Result<Self> {
        let counts = Arc::new(LowerCounts::default());
        let mut task = Task::new(core, root, resync, &counts)?;
        task.note_in(seen);
        let (waker, is_over) = (task.waker(), Arc::clone(task.is_over()));
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("agentfs-lower".to_owned())
            .spawn(move || task.run(&ready))?;
        // An error means that watching goes on in the thread.
        let _ = is_ready.recv_timeout(PATIENCE);
        Ok(Self {
            waker,
            is_over,
            thread: Some(thread),
            counts,
        })
    }

    pub(crate) fn counts(&self) -> &LowerCounts {
        &self.counts
    }
}

impl Drop for LowerWatch {
    fn drop(&mut self) {
        // Relaxed: nothing but the flag itself is looked at.
        self.is_over.store(true, Ordering::Relaxed);
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("watching the lower directory failed");
        }
    }
}
