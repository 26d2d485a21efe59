//! On Linux every directory has an inotify watch, and the events say in their order what happened.
//!
//! The thread may look late: what a path leads to now says nothing about what it led to when an event
//! was queued. So the thread keeps the tree of the watched directories as the applied events have
//! left it ([`tree`]), finds the directory of an event by the number of its watch, and emits what
//! follows from that tree ([`apply`]). The host is asked in one case only, about directories that are
//! not watched yet: they are watched and then listed, when all events were applied and none has come
//! since that concerns a name on the way ([`enter`]).
//!
//! When the kernel's queue overflows, everything is watched anew, the mounts forget everything, and
//! every queue gets an overflow record.

mod apply;
mod barrier;
mod coverage;
mod enter;
mod exchange;
mod queue;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use agentfs_core::{FsCore, LowerChange};
use rustix::event::EventfdFlags;

use self::barrier::Barrier;
use self::coverage::Coverage;
use self::queue::{Queue, Wd};
use self::tree::{Dirs, Key, Place};
use super::seen::Seen;
use super::{LowerCounts, PATIENCE, Resync};

/// For how long the host is quiet before it is noted that everything is emitted.
const QUIET: Duration = Duration::from_millis(100);

/// How many events are applied before the kernel's queue is emptied again.
const AT_ONCE: usize = 64;

/// Wakes the thread.
#[derive(Debug)]
pub(super) struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Wakes a thread that waits. One that works looks at the flag.
    pub(super) fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

pub(super) struct Task {
    is_over: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    core: FsCore,
    root: PathBuf,
    root_fd: OwnedFd,
    coverage: Coverage,
    resync: Resync,
    counts: Arc<LowerCounts>,
    queue: Queue,
    barrier: Arc<Barrier>,
    /// Watches that are gone, and that the barrier does not know to be gone.
    gone: Vec<Wd>,
    /// Events applied since the kernel's queue was emptied.
    applied: usize,
    dirs: Dirs,
    /// Directories that are not watched yet.
    unentered: VecDeque<Key>,
    /// Names that the host may have although they are not emitted.
    doubtful: Vec<Place>,
    /// Directories that are gone, but not their names.
    ending: Vec<Key>,
    /// Files that are written, and when that is emitted although they are still open.
    writing: HashMap<Place, Instant>,
    /// Objects that applying has moved to a temporary name, with the paths that they had.
    aside: HashMap<Place, PathBuf>,
    /// Events were lost, and not everything is watched anew yet.
    owes_resync: bool,
    seen: Option<Arc<Seen>>,
    /// When the host will have been quiet for long enough.
    quiet_at: Option<Instant>,
}

impl Task {
    pub(super) fn new(
        core: &FsCore,
        root: &Path,
        resync: Resync,
        counts: &Arc<LowerCounts>,
    ) -> io::Result<Self> {
        let flags =
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let queue = Queue::new();
        let barrier = Arc::new(Barrier::new());
        barrier.watch(queue.inotify());
        if let Some(announced) = core.announced() {
            let barrier = Arc::clone(&barrier);
            announced.set_waiter(move || barrier.wait());
        }
        Ok(Self {
            is_over: Arc::default(),
            wake: Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?),
            core: core.clone(),
            root: root.to_owned(),
            root_fd: rustix::fs::open(root, flags, rustix::fs::Mode::empty())?,
            coverage: Coverage::new(core, root, counts),
            resync,
            counts: Arc::clone(counts),
            queue,
            barrier,
            gone: Vec::new(),
            applied: 0,
            dirs: Dirs::new(),
            unentered: VecDeque::from([Dirs::ROOT]),
            doubtful: Vec::new(),
            ending: Vec::new(),
            writing: HashMap::new(),
            aside: HashMap::new(),
            owes_resync: false,
            seen: None,
            quiet_at: None,
        })
    }

    /// Has the thread note up to when everything is emitted.
    pub(super) fn note_in(&mut self, seen: Option<Arc<Seen>>) {
        self.seen = seen;
    }

    /// Returns what ends the thread when it is set.
    pub(super) fn is_over(&self) -> &Arc<AtomicBool> {
        &self.is_over
    }

    pub(super) fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    pub(super) fn run(mut self, ready: &mpsc::Sender<()>) {
        let begun = Instant::now();
        self.catch_up();
        // If watching took long, the start has not waited for it, and something may have been
        // missed.
        let _ = ready.send(());
        if begun.elapsed() >= PATIENCE {
            self.resync();
        }
        while self.queue.is_there() && !self.is_over.load(Ordering::Relaxed) {
            let due = self.writing.values().copied().chain(self.quiet_at).min();
            let within = due.map(|due| due.saturating_duration_since(Instant::now()));
            self.queue.wait(Some(self.wake.as_fd()), within);
            let at = SystemTime::now();
            self.catch_up();
            self.emit_written(Instant::now());
            self.note_seen(at);
        }
        self.barrier.watch(None);
    }

    /// Notes that everything up to this moment is emitted, if the host is quiet.
    fn note_seen(&mut self, at: SystemTime) {
        let is_quiet = |quiet_at: &mut Instant| *quiet_at <= Instant::now();
        if let Some(seen) = &self.seen
            && self.writing.is_empty()
            && self.quiet_at.take_if(is_quiet).is_some()
        {
            seen.note(at);
        }
    }

    /// Applies all events, and enters all directories.
    fn catch_up(&mut self) {
        while !self.is_over.load(Ordering::Relaxed) && self.step() {}
        if self.queue.take_has_read() {
            self.coverage.report();
        }
        self.coverage.count();
        self.barrier.pass(self.gone.drain(..));
    }

    /// Applies one event, or enters one directory when all events were applied. Returns whether there
    /// was anything to do.
    fn step(&mut self) -> bool {
        if self.queue.is_empty() || self.applied >= AT_ONCE {
            self.applied = 0;
            self.fill();
            self.emit_written(Instant::now());
        }
        if self.queue.has_lost() {
            self.look_anew();
            return true;
        }
        if let Some(raw) = self.queue.pop() {
            self.applied += 1;
            if self.seen.is_some() {
                self.quiet_at = Some(Instant::now() + QUIET);
            }
            self.apply(raw);
            return true;
        }
        self.dirs.is_settled();
        if let Some(key) = self.unentered.pop_front() {
            self.enter(key);
            return true;
        }
        if let Some(place) = self.doubtful.pop() {
            self.look_at(place);
            return true;
        }
        if let Some(key) = self.ending.pop() {
            self.end(key);
            return true;
        }
        if std::mem::take(&mut self.owes_resync) {
            self.resync();
        }
        false
    }

    /// Reads what the kernel has queued.
    fn fill(&mut self) {
        self.queue.fill();
    }

    /// Watches everything anew if a directory is gone and nothing said so of its name.
    fn end(&mut self, key: Key) {
        if self.dirs.get(key).is_none() {
            return;
        }
        if self.queue.wait(None, Some(queue::LEAVING)) {
            self.ending.push(key);
        } else {
            self.look_anew();
        }
    }

    /// Watches everything anew, because events were lost.
    fn look_anew(&mut self) {
        self.queue = Queue::new();
        self.coverage.report();
        self.barrier.watch(self.queue.inotify());
        self.gone.clear();
        self.dirs = Dirs::new();
        self.unentered = VecDeque::from([Dirs::ROOT]);
        self.doubtful.clear();
        self.ending.clear();
        self.writing.clear();
        self.aside.clear();
        self.coverage.clear();
        self.owes_resync = true;
    }

    fn resync(&self) {
        self.counts.resyncs.fetch_add(1, Ordering::Relaxed);
        tracing::info!("changes of the lower directory were missed; all look again");
        (self.resync)();
    }

    /// Returns the path of a name; `None` if its directory is gone.
    fn path(&self, (dir, name): &Place) -> Option<PathBuf> {
        Some(self.dirs.path(*dir)?.join(name))
    }

    /// Emits a change, unless it is hidden below a temporary name of an apply.
    fn emit(&self, change: &LowerChange) {
        if !change.path().iter().any(is_own) {
            self.counts.emitted.fetch_add(1, Ordering::Relaxed);
            self.core.lower_changed(change);
        }
    }
}

/// Returns whether this is a temporary name of an apply, by whatever process.
fn is_own(name: &OsStr) -> bool {
    agentfs_core::is_temporary(name.as_bytes())
}
