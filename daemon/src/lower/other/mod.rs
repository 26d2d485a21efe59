//! On systems whose watchers take a whole tree, the `notify` crate watches it.

mod coverage;
mod translate;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use agentfs_core::{FsCore, LowerChange};
use notify::{RecommendedWatcher, Watcher as _};

use self::coverage::Coverage;
use self::translate::{Step, Translator};
use super::seen::Seen;
use super::{LowerCounts, PATIENCE, Resync};

/// Events that wait for the thread. Those beyond are lost, which is made good as an overflow of the
/// kernel's queue is.
const WAITING: usize = 1 << 16;

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

impl LowerWatch {
    /// Watches from a new thread. Returns when everything is watched, unless that takes long.
    /// No daemon comes after one that was killed here, so it notes nothing.
    pub(crate) fn start(
        core: &FsCore,
        root: &Path,
        resync: Resync,
        _seen: Option<Arc<Seen>>,
    ) -> io::Result<Self> {
        let (messages, received) = sync_channel(WAITING);
        let (ready, is_ready) = mpsc::channel();
        let counts = Arc::new(LowerCounts::default());
        let is_over = Arc::<AtomicBool>::default();
        let task = Task {
            is_over: Arc::clone(&is_over),
            core: core.clone(),
            root: root.to_owned(),
            coverage: Coverage::new(root, &counts),
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
                Step::Resync => self.look_again(watcher),
            }
        }
    }

    fn emit(&mut self, change: &LowerChange) {
        self.counts.emitted.fetch_add(1, Ordering::Relaxed);
        self.core.lower_changed(change);
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
        self.coverage.cover(directory, watcher, found)
    }

    /// Watches everything anew, because events were lost: new directories are perhaps not watched
    /// yet.
    fn look_again(&mut self, watcher: &mut RecommendedWatcher) {
        self.cover(&self.root.clone(), Some(watcher), &mut |_| {});
        self.resync();
    }

    fn resync(&self) {
        self.counts.resyncs.fetch_add(1, Ordering::Relaxed);
        tracing::info!("changes of the lower directory were missed; all look again");
        (self.resync)();
    }
}
