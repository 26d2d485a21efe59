//! The directory below the branches: what the host changes there, branches hear of.
//!
//! One thread watches it with the `notify` crate, which takes one inotify watch for every directory.
//! Where the system does not allow so many, what is changed in the others is not heard, and the log
//! says how to allow more. When the host's queue overflows, everything that remembers is made to
//! look again.

mod translate;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentfs_core::{FsCore, LowerChange};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use self::translate::{Step, Translator};

/// How long starting waits for all directories to be watched.
const PATIENCE: Duration = Duration::from_secs(2);

/// Events that wait to be told. Beyond, they are lost, which is made good as for the kernel's queue.
const WAITING: usize = 1 << 16;

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct LowerCounts {
    /// Changes of the host that branches were told of.
    pub(crate) told: AtomicU64,
    /// How often all had to look again.
    pub(crate) resyncs: AtomicU64,
    /// Whether the limit of watches was reached.
    pub(crate) is_partial: AtomicBool,
}

/// Watches the directory until it is dropped.
#[derive(Debug)]
pub(crate) struct LowerWatch {
    messages: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<LowerCounts>,
}

#[derive(Debug)]
enum Message {
    Event(notify::Result<notify::Event>),
    Stop,
}

/// What is to be done when it is not known what changed.
pub(crate) type Resync = Box<dyn Fn() + Send>;

impl LowerWatch {
    /// Watches from a new thread. Returns when everything is watched, unless that takes long.
    pub(crate) fn start(core: &FsCore, root: &Path, resync: Resync) -> io::Result<Self> {
        let (messages, received) = sync_channel(WAITING);
        let (ready, is_ready) = mpsc::channel();
        let counts = Arc::new(LowerCounts::default());
        let task = Task {
            core: core.clone(),
            root: root.to_owned(),
            translator: Translator::new(root),
            resync,
            is_lossy: Arc::default(),
            counts: Arc::clone(&counts),
        };
        let sender = messages.clone();
        let thread = std::thread::Builder::new()
            .name("agentfs-lower".to_owned())
            .spawn(move || task.run(sender, &received, &ready))?;
        // An error means that it goes on in the thread.
        let _ = is_ready.recv_timeout(PATIENCE);
        Ok(Self {
            messages,
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
        // It fails when the thread has ended already.
        drop(self.messages.send(Message::Stop));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("watching the lower directory failed");
        }
    }
}

struct Task {
    core: FsCore,
    root: PathBuf,
    translator: Translator,
    resync: Resync,
    /// Events found no room.
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
                self.report(&error);
                return;
            }
        };
        if let Err(error) = watcher.watch(&self.root, RecursiveMode::Recursive) {
            self.report(&error);
        }
        // Nobody waits for it any more if it took long; then something may have been missed.
        let _ = ready.send(());
        if begun.elapsed() >= PATIENCE {
            self.resync();
        }
        while let Some(message) = self.next(received) {
            let steps = match message {
                Some(Message::Stop) => return,
                Some(Message::Event(Ok(event))) => self.translator.hear(&event, Instant::now()),
                Some(Message::Event(Err(error))) => {
                    self.report(&error);
                    Vec::new()
                }
                None => self.translator.due(Instant::now()),
            };
            self.carry_out(steps, &mut watcher);
            if self.is_lossy.swap(false, Ordering::AcqRel) {
                self.resync();
            }
        }
    }

    /// The next message, or nothing in it when something is due.
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
            match step {
                Step::Tell(change) => self.tell(&change),
                Step::Enter(directory) => self.enter(&directory, watcher),
                Step::Resync => self.resync(),
            }
        }
    }

    fn tell(&self, change: &LowerChange) {
        self.counts.told.fetch_add(1, Ordering::Relaxed);
        if let Err(errno) = self.core.lower_changed(change) {
            tracing::debug!(?change, %errno, "a change of the host is not told");
        }
    }

    /// A new directory may have been filled before it was watched. What is found and also heard of
    /// is told once.
    fn enter(&mut self, directory: &Path, watcher: &mut RecommendedWatcher) {
        // It returns when the watch is there, so what is found now is all that was missed.
        if let Err(error) = watcher.watch(directory, RecursiveMode::Recursive) {
            self.report(&error);
        }
        let mut open = vec![directory.to_owned()];
        while let Some(directory) = open.pop() {
            // It may be gone again.
            let Ok(entries) = std::fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries.flatten() {
                let path = entry.path();
                if let Some(change) = self.translator.find(&path, Instant::now()) {
                    self.tell(&change);
                }
                if entry.file_type().is_ok_and(|it| it.is_dir()) {
                    open.push(path);
                }
            }
        }
    }

    fn resync(&self) {
        self.counts.resyncs.fetch_add(1, Ordering::Relaxed);
        tracing::info!("changes of the lower directory were missed; all look again");
        (self.resync)();
    }

    fn report(&self, error: &notify::Error) {
        match error.kind {
            ErrorKind::MaxFilesWatch => {
                if !self.counts.is_partial.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        lower = %self.root.display(),
                        "some changes that the host makes will not be heard: every directory takes \
                         an inotify watch, and there may be no more; allow more with: \
                         sysctl fs.inotify.max_user_watches=524288"
                    );
                }
            }
            // It is gone already.
            ErrorKind::PathNotFound | ErrorKind::WatchNotFound => {}
            ErrorKind::Generic(_) | ErrorKind::Io(_) | ErrorKind::InvalidConfig(_) => {
                tracing::debug!(%error, "the lower directory is not watched everywhere");
            }
        }
    }
}
