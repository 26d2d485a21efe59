//! On systems whose watchers take a whole tree, the `notify` crate watches it.

mod coverage;
mod translate;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, mpsc};
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

/// Wakes the thread.
#[derive(Debug)]
pub(super) struct Waker(SyncSender<Message>);

impl Waker {
    /// Wakes a thread that waits. One that works looks at the flag.
    pub(super) fn wake(&self) {
        drop(self.0.try_send(Message::Stop));
    }
}

#[derive(Debug)]
enum Message {
    Event(notify::Result<notify::Event>),
    Stop,
}

pub(super) struct Task {
    is_over: Arc<AtomicBool>,
    messages: SyncSender<Message>,
    received: Receiver<Message>,
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
    pub(super) fn new(
        core: &FsCore,
        root: &Path,
        resync: Resync,
        counts: &Arc<LowerCounts>,
    ) -> io::Result<Self> {
        let (messages, received) = sync_channel(WAITING);
        Ok(Self {
            is_over: Arc::default(),
            messages,
            received,
            core: core.clone(),
            root: root.to_owned(),
            coverage: Coverage::new(root, counts),
            translator: Translator::new(root),
            resync,
            is_lossy: Arc::default(),
            counts: Arc::clone(counts),
        })
    }

    /// Does nothing: no daemon comes after one that was killed here.
    pub(super) fn note_in(&mut self, _seen: Option<Arc<Seen>>) {}

    /// Returns what ends the thread when it is set.
    pub(super) fn is_over(&self) -> &Arc<AtomicBool> {
        &self.is_over
    }

    pub(super) fn waker(&self) -> Waker {
        Waker(self.messages.clone())
    }

    pub(super) fn run(mut self, ready: &mpsc::Sender<()>) {
        let begun = Instant::now();
        let messages = self.messages.clone();
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
        while let Some(message) = self.next() {
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
    fn next(&self) -> Option<Option<Message>> {
        let received = &self.received;
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
