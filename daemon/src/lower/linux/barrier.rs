//! Waiting until everything that has happened so far was applied.
//!
//! The kernel queues the events of all watches of one inotify instance in one order. So another thread adds
//! a watch and removes it: the kernel queues `IN_IGNORED` for it, and when the thread that watches has
//! applied everything up to that event, it has applied everything that happened before.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, WatchFlags};
use rustix::fs::{Mode, OFlags};

use super::queue::Wd;

/// How long a caller waits. To look at all files takes hardly longer.
const PATIENCE: Duration = Duration::from_millis(250);

/// What is watched for a moment: something that every process may read, and that is no directory, so that
/// it is not watched already.
const WATCHED: &str = "/dev/null";

#[derive(Debug)]
pub(super) struct Barrier {
    state: Mutex<State>,
    passed: Condvar,
    /// The list of mounts, which is readable in an exceptional state when it has changed (proc(5)). What is
    /// mounted in a watched directory is not reported.
    mounts: Option<OwnedFd>,
}

#[derive(Debug, Default)]
struct State {
    /// `None` when nothing is watched.
    inotify: Option<Arc<OwnedFd>>,
    waiting: HashSet<Wd>,
    passed: HashSet<Wd>,
}

impl Barrier {
    pub(super) fn new() -> Self {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Self {
            state: Mutex::default(),
            passed: Condvar::new(),
            mounts: rustix::fs::open("/proc/self/mountinfo", flags, Mode::empty()).ok(),
        }
    }

    /// Sets where events come from now. The callers that wait for events of another instance give up.
    pub(super) fn watch(&self, inotify: Option<Arc<OwnedFd>>) {
        let mut state = self.state.lock();
        state.inotify = inotify;
        state.waiting.clear();
        self.passed.notify_all();
    }

    /// Records that everything was applied up to the events that say of these watches that they are gone.
    pub(super) fn pass(&self, gone: impl IntoIterator<Item = Wd>) {
        let mut state = self.state.lock();
        for wd in gone {
            if state.waiting.remove(&wd) {
                state.passed.insert(wd);
            }
        }
        self.passed.notify_all();
    }

    /// Waits until everything that has happened so far was applied. Returns false when that takes long or is
    /// not known, and when something was mounted or unmounted since the last time.
    pub(super) fn wait(&self) -> bool {
        if !self.are_mounts_unchanged() {
            return false;
        }
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock();
        let Some(inotify) = state.inotify.clone() else {
            return false;
        };
        let Ok(wd) = inotify::add_watch(&inotify, WATCHED, WatchFlags::DELETE_SELF) else {
            return false;
        };
        state.waiting.insert(wd);
        if inotify::remove_watch(&inotify, wd).is_err() {
            state.waiting.remove(&wd);
            return false;
        }
        while state.waiting.contains(&wd) {
            if self.passed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.waiting.remove(&wd);
        state.passed.remove(&wd)
    }

    fn are_mounts_unchanged(&self) -> bool {
        let Some(mounts) = &self.mounts else {
            return false;
        };
        let mut fds = [PollFd::from_borrowed_fd(mounts.as_fd(), PollFlags::PRI)];
        let at_once = Timespec::default();
        let polled = rustix::event::poll(&mut fds, Some(&at_once));
        let changed = PollFlags::PRI | PollFlags::ERR;
        polled.is_ok() && !fds.iter().any(|fd| fd.revents().intersects(changed))
    }
}
