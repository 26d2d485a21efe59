//! The kernel's queue of what happens in the watched directories, and the part of it that was read
//! and not yet applied.
//!
//! The kernel queues the event of a name before it unlocks the directory of that name. So all events
//! of the names in a directory come in the order in which they happened, and the two halves of a
//! rename follow each other in both directories.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::{Errno, Result};

/// How long one event waits for another that the kernel queues in the same system call, if at all.
pub(super) const LEAVING: Duration = Duration::from_millis(20);

/// How many events are held here. The others wait in the kernel, which says so when it has too many.
const MOST: usize = 1 << 18;

/// What a watched directory reports.
const WATCHED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::EXCL_UNLINK)
    .union(WatchFlags::ONLYDIR);

/// The events that change which names there are.
const NAMES: ReadFlags = ReadFlags::CREATE
    .union(ReadFlags::DELETE)
    .union(ReadFlags::MOVED_FROM)
    .union(ReadFlags::MOVED_TO);

/// The number that the kernel gives to a watched directory.
pub(super) type Wd = i32;

/// One event as the kernel has queued it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Raw {
    pub(super) wd: Wd,
    pub(super) what: ReadFlags,
    pub(super) cookie: u32,
    /// The name in the directory; `None` when the directory itself is meant.
    pub(super) name: Option<OsString>,
}

impl Raw {
    pub(super) fn is(&self, what: ReadFlags) -> bool {
        self.what.intersects(what)
    }

    fn concerns(&self, wd: Wd, name: &OsStr) -> bool {
        self.wd == wd && self.is(NAMES) && self.name.as_deref() == Some(name)
    }
}

/// The events that wait.
#[derive(Debug)]
pub(super) struct Queue {
    /// `None` where the system gives no more of them.
    inotify: Option<Arc<OwnedFd>>,
    waiting: VecDeque<Raw>,
    buffer: Vec<MaybeUninit<u8>>,
    has_lost: bool,
    has_read: bool,
}

impl Queue {
    pub(super) fn new() -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        if let Err(errno) = &inotify {
            tracing::warn!(error = %errno, "the lower directory is not watched");
        }
        Self {
            inotify: inotify.ok().map(Arc::new),
            waiting: VecDeque::new(),
            buffer: vec![MaybeUninit::uninit(); 1 << 16],
            has_lost: false,
            has_read: false,
        }
    }

    /// Returns where the events come from.
    pub(super) fn inotify(&self) -> Option<Arc<OwnedFd>> {
        self.inotify.clone()
    }

    /// Returns whether anything was read that has happened to a watched directory since this was called
    /// last.
    pub(super) fn take_has_read(&mut self) -> bool {
        std::mem::take(&mut self.has_read)
    }

    /// Returns whether the kernel reports anything.
    pub(super) fn is_there(&self) -> bool {
        self.inotify.is_some()
    }

    /// Watches a directory, which is open and was found at `path`. A directory that is watched
    /// already keeps its number.
    pub(super) fn watch(&self, directory: &OwnedFd, path: &Path) -> Result<Wd> {
        let inotify = self.inotify.as_ref().ok_or(Errno::NOSYS)?;
        let itself = format!("/proc/self/fd/{}", directory.as_raw_fd());
        match inotify::add_watch(inotify, itself, WATCHED) {
            // There is no /proc.
            Err(Errno::NOENT) => {
                inotify::add_watch(inotify, path, WATCHED | WatchFlags::DONT_FOLLOW)
            }
            result => result,
        }
    }

    pub(super) fn unwatch(&self, wd: Wd) {
        if let Some(inotify) = &self.inotify {
            // The kernel has removed it already if the directory is gone.
            let _ = inotify::remove_watch(inotify, wd);
        }
    }

    /// Reads what the kernel has queued.
    pub(super) fn fill(&mut self) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        let mut reader = Reader::new(inotify, &mut self.buffer);
        while self.waiting.len() < MOST || !reader.is_buffer_empty() {
            match reader.next() {
                Ok(event) => {
                    let what = event.events();
                    self.has_lost |=
                        what.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT);
                    self.has_read |= !what.intersects(ReadFlags::IGNORED);
                    let name = event.file_name();
                    let raw = Raw {
                        wd: event.wd(),
                        what,
                        cookie: event.cookie(),
                        name: name.map(|name| OsStr::from_bytes(name.to_bytes()).to_owned()),
                    };
                    if self.waiting.back() != Some(&raw) {
                        self.waiting.push_back(raw);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(errno) => {
                    tracing::debug!(error = %errno, "events of the lower directory are lost");
                    self.has_lost = true;
                    return;
                }
            }
        }
    }

    /// Returns whether the kernel has dropped events, or a watched filesystem is gone.
    pub(super) fn has_lost(&self) -> bool {
        self.has_lost
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn pop(&mut self) -> Option<Raw> {
        self.waiting.pop_front()
    }

    /// Returns whether one of these names may lead to something else by now than after the events
    /// that were applied.
    pub(super) fn concerns(&self, names: &[(Wd, OsString)]) -> bool {
        let concerned = |raw: &Raw| names.iter().any(|(wd, name)| raw.concerns(*wd, name));
        self.waiting.iter().any(concerned)
    }

    /// Returns whether anything that waits behind this rename concerns one of the names.
    pub(super) fn concerns_after(&self, names: &[(Wd, OsString)], cookie: u32) -> bool {
        let concerned = |raw: &Raw| names.iter().any(|(wd, name)| raw.concerns(*wd, name));
        let mut others = self.waiting.iter().filter(|raw| raw.cookie != cookie);
        others.any(concerned)
    }

    /// Returns whether anything waits that happened to the names in this directory.
    pub(super) fn has_names_of(&self, wd: Wd) -> bool {
        self.waiting.iter().any(|raw| raw.wd == wd && raw.is(NAMES))
    }

    /// Takes out the second half of the rename whose first half was just popped. There is none if
    /// the object left the watched directories.
    pub(super) fn take_second_half(&mut self, first: &Raw) -> Option<Raw> {
        let deadline = Instant::now() + LEAVING;
        loop {
            let is_second = |raw: &Raw| raw.cookie == first.cookie && raw.is(ReadFlags::MOVED_TO);
            if let Some(at) = self.waiting.iter().position(is_second) {
                return self.waiting.remove(at);
            }
            // The directory was locked until the second half was queued.
            let left = deadline.saturating_duration_since(Instant::now());
            if self.has_names_of(first.wd) || left.is_zero() {
                return None;
            }
            if !self.wait(None, Some(left)) {
                return None;
            }
            self.fill();
        }
    }

    /// Drops what follows this second half of a rename, if an object leaves its name for a directory
    /// that is not watched.
    pub(super) fn drop_leaving(&mut self, came: &Raw) {
        let Some(name) = came.name.as_deref() else {
            return;
        };
        let next = |raw: &Raw| raw.concerns(came.wd, name);
        let Some(at) = self.waiting.iter().position(next) else {
            return;
        };
        let is_leaving = self.waiting.get(at).is_some_and(|left| {
            let is_second = |raw: &Raw| raw.cookie == left.cookie && raw.is(ReadFlags::MOVED_TO);
            left.is(ReadFlags::MOVED_FROM) && !self.waiting.iter().any(is_second)
        });
        if is_leaving {
            self.waiting.remove(at);
        }
    }

    /// Returns the first half of the rename that follows one in both directories, if it leads the
    /// opposite way: so the kernel reports an exchange, and an object that moves there and back.
    pub(super) fn peek_way_back(
        &self,
        (from, from_name): (Wd, &OsStr),
        (to, to_name): (Wd, &OsStr),
    ) -> Option<&Raw> {
        let is_next = |raw: &&Raw| raw.is(NAMES) && (raw.wd == from || raw.wd == to);
        let first = self.waiting.iter().find(is_next)?;
        if !first.is(ReadFlags::MOVED_FROM) || !first.concerns(to, to_name) {
            return None;
        }
        let second = |raw: &&Raw| raw.cookie == first.cookie && raw.is(ReadFlags::MOVED_TO);
        let second = self.waiting.iter().find(second)?;
        second.concerns(from, from_name).then_some(first)
    }

    /// Returns whether a directory reports itself changed before this event.
    pub(super) fn reports_itself_before(&self, wd: Wd, cookie: u32) -> bool {
        let mut before = self.waiting.iter().take_while(|raw| raw.cookie != cookie);
        before.any(|raw| raw.wd == wd && raw.name.is_none() && raw.is(ReadFlags::ATTRIB))
    }

    /// Drops both halves of a rename.
    pub(super) fn drop_rename(&mut self, cookie: u32) {
        self.waiting.retain(|raw| {
            raw.cookie != cookie || !raw.is(ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO)
        });
    }

    /// Waits until the kernel reports something, or `wake` is readable. Returns false when the time is
    /// over.
    pub(super) fn wait(&self, wake: Option<BorrowedFd<'_>>, within: Option<Duration>) -> bool {
        let fds = [self.inotify.as_ref().map(|it| it.as_fd()), wake];
        let fds = fds.into_iter().flatten();
        let mut fds: Vec<_> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let within = within.and_then(|within| Timespec::try_from(within).ok());
        !matches!(rustix::event::poll(&mut fds, within.as_ref()), Ok(0))
    }
}
