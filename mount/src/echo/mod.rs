//! Replays changes of other origins on a mount, so that the kernel itself notifies every watcher there.
//!
//! The echo thread makes, on the mount, the system call that would have made the change. The server
//! recognises its requests by the number of that thread and answers them without changing anything, and
//! the kernel notifies its watchers, as of any other call. So the change also reaches programs that
//! the library cannot be preloaded into.

pub(crate) mod open_beneath;
pub(crate) mod replay;

use std::ffi::OsStr;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use agentfs_core::event::Change;
use agentfs_core::id::NodeId;
use agentfs_core::{Attr, Branch};
use fuser::{Errno, FileHandle, FopenFlags, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyOpen};
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{AtFlags, Dev};

use crate::adapter::{Adapter, GENERATION, NEVER};
use crate::echo::open_beneath::RootSeen;
use crate::echo::replay::Replayer;
use crate::kernel_cache::KernelCache;
use crate::reply::node;

/// The file that is opened only to be closed.
const HANDLE: FileHandle = FileHandle(u64::MAX);

/// No thread has this number.
const PROBING: u32 = u32::MAX;

/// The echo of one mount: one change at a time.
#[derive(Debug)]
pub(crate) struct Echo {
    /// The thread whose requests are ours, by the number that it has on this mount, or 0; [`PROBING`]
    /// while that is being found out.
    thread: AtomicU32,
    probe: Mutex<Probe>,
    replies: Mutex<PlannedReplies>,
    turn: Mutex<()>,
}

/// A secret name that the echo thread looks up once. When the lookup arrives here, the directory that the
/// thread has opened is the root of our mount, and the thread that asked is ours.
#[derive(Debug, Default)]
struct Probe {
    name: String,
    /// The thread that asked.
    asked: Option<u32>,
}

/// What our own requests are to be answered.
#[derive(Debug, Default)]
pub(crate) struct PlannedReplies {
    /// What is at a name, or that there is nothing.
    pub(crate) names: Vec<(NodeId, Vec<u8>, Option<Attr>)>,
    /// What is made.
    pub(crate) made: Option<Attr>,
}

/// Where the root of a mount may be opened: its device, its mount point, and processes that see it
/// there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MountPoint<'a> {
    pub(crate) device: Dev,
    pub(crate) point: &'a Path,
    pub(crate) processes: &'a [u32],
}

impl Echo {
    pub(crate) fn new() -> Self {
        Self {
            thread: AtomicU32::new(0),
            probe: Mutex::default(),
            replies: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// Returns whether a request of this thread is ours.
    pub(crate) fn is_own(&self, thread: u32) -> bool {
        // Acquire: pairs with the stores in `with`, which come before the thread's requests.
        let own = self.thread.load(Ordering::Acquire);
        own != 0 && own != PROBING && own == thread
    }

    /// Returns whether a request may be ours.
    pub(crate) fn is_busy(&self) -> bool {
        // Acquire: as in `is_own`.
        self.thread.load(Ordering::Acquire) != 0
    }

    /// Replays a change, and returns when the kernel has notified its watchers. Nothing outside of the
    /// mount is touched, whatever its users put in the way.
    ///
    /// # Errors
    ///
    /// `Unsupported` when the mount cannot be reached, `NotFound` when the directory cannot, by a
    /// path that stays in the mount; otherwise the error of the system call. Nobody was notified then.
    pub(crate) fn replay(
        &self,
        branch: &Branch,
        cache: &KernelCache,
        mount: MountPoint<'_>,
        change: &Change,
    ) -> io::Result<()> {
        self.with(branch, cache, mount, |replayer| replayer.replay(change))
    }

    /// Returns whether our requests on this mount are recognised.
    pub(crate) fn can_replay(
        &self,
        branch: &Branch,
        cache: &KernelCache,
        mount: MountPoint<'_>,
    ) -> bool {
        self.with(branch, cache, mount, |_| Ok(())).is_ok()
    }

    fn with(
        &self,
        branch: &Branch,
        cache: &KernelCache,
        mount: MountPoint<'_>,
        replay: impl FnOnce(&Replayer<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let _turn = self.turn.lock();
        self.thread.store(PROBING, Ordering::Release);
        let here = std::iter::once(RootSeen::FromHere(mount.point));
        let theirs = mount
            .processes
            .iter()
            .map(|it| RootSeen::FromProcess(*it, mount.point));
        let found = here.chain(theirs).find_map(|point| {
            let root = open_beneath::root(point, mount.device).ok()?;
            Some((self.recognised(&root)?, root))
        });
        let result = match found {
            Some((thread, root)) => {
                self.thread.store(thread, Ordering::Release);
                replay(&Replayer {
                    echo: self,
                    branch,
                    cache,
                    device: mount.device,
                    root,
                })
            }
            None => Err(ErrorKind::Unsupported.into()),
        };
        self.thread.store(0, Ordering::Release);
        *self.replies.lock() = PlannedReplies::default();
        result
    }

    /// Locks the answers that our own requests get from now on.
    pub(crate) fn replies(&self) -> MutexGuard<'_, PlannedReplies> {
        self.replies.lock()
    }

    /// Returns the number that this thread has on the mount, if our requests there are recognised:
    /// otherwise they would be carried out, or would be about something else. The root holds the mount
    /// from now on, so no other mount gets its device number.
    fn recognised(&self, root: &OwnedFd) -> Option<u32> {
        // Its keys are the system's random numbers.
        let secret = RandomState::new().hash_one(());
        let name = format!(".agentfs-echo-{secret:016x}");
        *self.probe.lock() = Probe {
            name: name.clone(),
            asked: None,
        };
        // Only its being asked for matters.
        let _: Result<_, _> = rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW);
        // The number is 0 for a process that the mount's namespace of processes does not know.
        std::mem::take(&mut *self.probe.lock())
            .asked
            .filter(|thread| *thread != 0)
    }

    /// Returns whether this is the name that only we know, in the root. Then the thread is ours.
    fn is_probe(&self, parent: NodeId, name: &OsStr, thread: u32) -> bool {
        // Acquire: as in `is_own`. The mutex guards the name.
        if self.thread.load(Ordering::Acquire) != PROBING {
            return false;
        }
        let mut probe = self.probe.lock();
        let is_it = parent == NodeId::ROOT && !probe.name.is_empty() && name == &*probe.name;
        if is_it {
            probe.asked = Some(thread);
        }
        is_it
    }
}

/// Answers to our own requests: nothing may be remembered, because more may have happened since.
impl Adapter {
    /// Returns the answer to one of our own lookups; `None` when the name is to be looked up as for any
    /// other program.
    pub(crate) fn echo_lookup(
        &self,
        thread: u32,
        parent: INodeNo,
        name: &OsStr,
    ) -> Option<Result<Attr, Errno>> {
        if !self.echo.is_own(thread) {
            return self.echo.is_probe(node(parent), name, thread).then(|| {
                // Nothing is remembered of an error.
                Err(Errno::from_i32(rustix::io::Errno::CANCELED.raw_os_error()))
            });
        }
        let replies = self.echo.replies.lock();
        let known = replies
            .names
            .iter()
            .find(|(dir, it, _)| *dir == node(parent) && it == name.as_bytes());
        known.map(|(_, _, attr)| attr.ok_or(Errno::ENOENT))
    }

    pub(crate) fn echo_entry(&self, parent: INodeNo, attr: Result<Attr, Errno>, reply: ReplyEntry) {
        match attr {
            Ok(attr) => {
                self.cache.count(node(parent), attr.node);
                reply.entry_with_ttls(&NEVER, &NEVER, &self.shown(&attr), GENERATION);
            }
            Err(error) => reply.error(error),
        }
    }

    pub(crate) fn echo_made(&self, parent: INodeNo, reply: ReplyEntry) {
        let made = self.echo.replies.lock().made;
        self.echo_entry(parent, made.ok_or(Errno::ESTALE), reply);
    }

    pub(crate) fn echo_attr(&self, inode: INodeNo, reply: ReplyAttr) {
        let node = node(inode);
        let known = self.branch.getattr(node).ok();
        let planned = || {
            let replies = self.echo.replies.lock();
            let mut all = replies.names.iter().filter_map(|(_, _, attr)| *attr);
            all.find(|attr| attr.node == node)
        };
        match known.or_else(|| self.cache.orphan(node)).or_else(planned) {
            Some(attr) => reply.attr(&NEVER, &self.shown(&attr)),
            None => reply.error(Errno::ESTALE),
        }
    }
}

pub(crate) fn echo_opened(reply: ReplyOpen) {
    reply.opened(HANDLE, FopenFlags::FOPEN_KEEP_CACHE);
}

/// Answers the closing of a file that was opened for an echo; returns the reply for any other file.
pub(crate) fn echo_released(file: FileHandle, reply: ReplyEmpty) -> Option<ReplyEmpty> {
    if file == HANDLE {
        reply.ok();
        None
    } else {
        Some(reply)
    }
}
