//! The directory below the branches: the changes that the host makes there are handed to FsCore.
//!
//! One thread watches it with the `notify` crate, which takes one inotify watch for every
//! directory. Where the system does not allow so many, changes in the other directories are not
//! reported: each look at them asks the host again, and the log says how to allow more. When the
//! host's queue overflows, the mounts forget everything, and every queue gets an overflow record.

mod coverage;
pub mod filesystem;
pub mod inotify_limit;
mod translate;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentfs_core::{FsCore, LowerChange};
use notify::{RecommendedWatcher, Watcher as _};

use self::coverage::Coverage;
use self::translate::{Step, Translator};

/// How long starting waits for all directories to be watched.
const PATIENCE: Duration = Duration::from_secs(2);

/// Events that wait for the thread. Those beyond are lost, which is made good as an overflow of the
/// kernel's queue is.
const WAITING: usize = 1 << 16;

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
    messages: SyncSender<Message>,
    /// Set when nothing needs what is still in the queue.
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<LowerCounts>,
}

#[derive(Debug)]
enum Message {
    Event(notify::Result<notify::Event>),
    Stop,
}

/// Called when changes were missed.
pub(crate) type Resync = Box<dyn Fn() + Send>;

impl LowerWatch {
    /// Watches from a new thread. Returns when everything is watched, unless that takes long.
    pub(crate) fn start(core: &FsCore, root: &Path, resync: Resync) -> io::Result<Self> {
        let (messages, received) = sync_channel(WAITING);
        let (ready, is_ready) = mpsc::channel();
        let counts = Arc::new(LowerCounts::default());
        let is_over = Arc::<AtomicBool>::default();
        let task = Task {
            is_over: Arc::clone(&is_over),
            core: core.clone(),
            root: root.to_owned(),
            coverage: Coverage::new(core, root, &counts),
            translator: Translator::new(root),
            resync,
            is_lossy: Arc::default(),
            counts: Arc::clone(&counts),
        };
        let sender = messages.clone();
        let thread = std::thread::Builder::new()
            .name("agentfs-lower".to_owned())
            .spawn(move || task.run(sender, &received, &ready))?;
        // An error means that watching goes on in the thread.
        let _ = is_ready.recv_timeout(PATIENCE);
        Ok(Self {
            messages,
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
        // The message wakes a thread that waits. One that works looks at the flag.
        drop(self.messages.try_send(Message::Stop));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("watching the lower directory failed");
        }
    }
}

struct Task {
    is_over: Arc<AtomicBool>,
    core: FsCore,
    root: PathBuf,
    coverage: Coverage,
    translator: Translator,
    resync: Resync,
    /// Events were lost, because the queue was full.
    is_lossy: Arc<AtomicBool>,
    counts: Arc<LowerCounts>,
}

impl Task {
    fn run(
        mut self,
        messages: SyncSender<Message>,
        received: &Receiver<Message>,
        ready: &mpsc::Sender<()>,
    ) {
        let begun = Instant::now();
        let is_lossy = Arc::clone(&self.is_lossy);
        let hear = move |event: notify::Result<notify::Event>| {
            let concerns = !event.as_ref().is_ok_and(|it| !Translator::concerns(it));
            if concerns && messages.try_send(Message::Event(event)).is_err() {
                // Release: pairs with the swap; what was lost has happened when the host is read again.
                is_lossy.store(true, Ordering::Release);
            }
        };
        let config = notify::Config::default().with_follow_symlinks(false);
        let mut watcher = match RecommendedWatcher::new(hear, config) {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(%error, "the lower directory is not watched");
                self.cover(&self.root.clone(), None, &mut |_| {});
                return;
            }
        };
        self.cover(&self.root.clone(), Some(&mut watcher), &mut |_| {});
        // If watching took long, the start has not waited for it, and something may have been
        // missed.
        let _ = ready.send(());
        if begun.elapsed() >= PATIENCE {
            self.resync();
        }
        while let Some(message) = self.next(received) {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let steps = match message {
                Some(Message::Stop) => return,
                Some(Message::Event(Ok(event))) => self.translator.hear(&event, Instant::now()),
                Some(Message::Event(Err(error))) => {
                    tracing::debug!(%error, "an event of the lower directory is lost");
                    vec![Step::Resync]
                }
                None => self.translator.due(Instant::now()),
            };
            self.carry_out(steps, &mut watcher);
            if self.is_lossy.swap(false, Ordering::AcqRel) {
                self.look_again(&mut watcher);
            }
        }
    }

    /// Returns the next message; an inner `None` when something is due, and an outer one at the
    /// end.
    fn next(&self, received: &Receiver<Message>) -> Option<Option<Message>> {
        let Some(due) = self.translator.next_due() else {
            return received.recv().ok().map(Some);
        };
        match received.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(message) => Some(Some(message)),
            Err(RecvTimeoutError::Timeout) => Some(None),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn carry_out(&mut self, steps: Vec<Step>, watcher: &mut RecommendedWatcher) {
        for step in steps {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            match step {
                Step::Emit(change) => self.emit(&change),
                Step::Enter(directory) => self.enter(&directory, watcher),
                Step::Moved(from, to) => self.moved(&from, &to, watcher),
                Step::Resync => self.look_again(watcher),
            }
        }
    }

    fn emit(&mut self, change: &LowerChange) {
        if let LowerChange::Removed { path, is_dir } = change {
            self.coverage.gone(path, *is_dir);
        }
        self.counts.emitted.fetch_add(1, Ordering::Relaxed);
        if let Err(errno) = self.core.lower_changed(change) {
            tracing::debug!(?change, %errno, "a change of the host is not emitted");
        }
    }

    /// Watches a new directory, which may have been filled before. What is found there and also
    /// reported is emitted once.
    fn enter(&mut self, directory: &Path, watcher: &mut RecommendedWatcher) {
        let mut found = Vec::new();
        self.cover(directory, Some(watcher), &mut |path| found.push(path));
        for path in found {
            if let Some(change) = self.translator.find(&path, Instant::now()) {
                self.emit(&change);
            }
        }
    }

    /// Watches a directory with everything below it. Returns whether that could be done.
    fn cover(
        &mut self,
        directory: &Path,
        watcher: Option<&mut RecommendedWatcher>,
        found: &mut dyn FnMut(PathBuf),
    ) -> bool {
        let before = self.counts.over_limit.load(Ordering::Relaxed);
        let is_whole = self.coverage.cover(directory, watcher, found);
        let over_limit = self.counts.over_limit.load(Ordering::Relaxed);
        if before == 0 && over_limit > 0 {
            tracing::warn!(
                lower = %self.root.display(),
                directories = over_limit,
                "programs will not hear of some changes that the host makes: every directory takes \
                 an inotify watch, and there may be no more; allow more with: {}",
                inotify_limit::allow_more()
            );
        }
        is_whole
    }

    /// Watches a directory that was moved anew, with everything below it.
    fn moved(&mut self, from: &Path, to: &Path, watcher: &mut RecommendedWatcher) {
        self.coverage.uncover(from);
        if !self.cover(&self.root.join(to), Some(watcher), &mut |_| {}) {
            // What was answered while the directory was watched may be kept for long.
            self.resync();
        }
    }

    /// Watches everything anew, because events were lost: new directories are perhaps not watched
    /// yet.
    fn look_again(&mut self, watcher: &mut RecommendedWatcher) {
        self.coverage.uncover(Path::new(""));
        self.cover(&self.root.clone(), Some(watcher), &mut |_| {});
        self.resync();
    }

    fn resync(&self) {
        self.counts.resyncs.fetch_add(1, Ordering::Relaxed);
        tracing::info!("changes of the lower directory were missed; all look again");
        (self.resync)();
    }
}
