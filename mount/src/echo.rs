//! Changes from elsewhere, told by the kernel itself to everybody who watches a mount.
//!
//! A thread of ours makes, on the mount, the system call that would have made the change. Its
//! requests are recognised by the number of that thread and answered without changing anything, and
//! the kernel tells its watchers, as of any other call. So hear those, too, that no library can be
//! loaded into.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use agentfs_core::event::{Attributes, Change, NodeRef, ObjectKind, Place, RenameHow};
use agentfs_core::id::NodeId;
use agentfs_core::{Attr, Branch, Caller};
use fuser::{Errno, FileHandle, FopenFlags, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyOpen};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::adapter::{Adapter, GENERATION, NEVER};
use crate::answer::node;
use crate::kernel_cache::KernelCache;

/// The file that is opened only to be closed.
const HANDLE: FileHandle = FileHandle(u64::MAX);

/// A name that is looked up to see whether our requests are recognised.
const PROBE: &str = ".agentfs-echo-probe";

/// How often a name is taken out of the kernel's cache when somebody looks it up just then.
const ATTEMPTS: usize = 8;

/// The echo of one mount: one change at a time.
#[derive(Debug)]
pub(crate) struct Echo {
    /// The thread whose requests are ours, or 0.
    thread: AtomicI32,
    plan: Mutex<Plan>,
    turn: Mutex<()>,
}

/// What our own requests are to be answered.
#[derive(Debug, Default)]
struct Plan {
    /// What is at a name, or that there is nothing.
    names: Vec<(NodeId, Vec<u8>, Option<Attr>)>,
    /// What is made.
    made: Option<Attr>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Echo {
    pub(crate) fn new() -> Self {
        Self {
            thread: AtomicI32::new(0),
            plan: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// Whether a request of this thread is ours. A thread has the number it has in our namespace of
    /// processes.
    pub(crate) fn is_own(&self, thread: u32) -> bool {
        // Acquire: pairs with the stores in `with`, which come before the thread's requests.
        let own = self.thread.load(Ordering::Acquire);
        own != 0 && u32::try_from(own) == Ok(thread)
    }

    /// Has the kernel tell of a change. Returns when it has. The mount is at one of these points.
    ///
    /// # Errors
    ///
    /// What the system calls say: usually that the directory is gone by now.
    pub(crate) fn tell(
        &self,
        branch: &Branch,
        cache: &KernelCache,
        points: &[PathBuf],
        change: &Change,
    ) -> io::Result<()> {
        self.with(branch, cache, points, |teller| teller.tell(change))
    }

    /// Whether our requests on this mount are recognised.
    pub(crate) fn can_tell(
        &self,
        branch: &Branch,
        cache: &KernelCache,
        points: &[PathBuf],
    ) -> bool {
        self.with(branch, cache, points, |_| Ok(())).is_ok()
    }

    fn with(
        &self,
        branch: &Branch,
        cache: &KernelCache,
        points: &[PathBuf],
        tell: impl FnOnce(&Teller<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let _turn = lock(&self.turn);
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        self.thread.store(own, Ordering::Release);
        let found = points
            .iter()
            .find_map(|point| probed(open_dir(CWD, point.as_os_str().as_bytes()).ok()?));
        let told = match found {
            Some(root) => tell(&Teller {
                echo: self,
                branch,
                cache,
                root,
            }),
            None => Err(io::ErrorKind::Unsupported.into()),
        };
        self.thread.store(0, Ordering::Release);
        *lock(&self.plan) = Plan::default();
        told
    }
}

/// The root of the mount, if our requests there are recognised: otherwise they would be carried out,
/// or would be about something else.
fn probed(root: OwnedFd) -> Option<OwnedFd> {
    let found = rustix::fs::statat(&root, PROBE, AtFlags::SYMLINK_NOFOLLOW);
    (found.err() == Some(rustix::io::Errno::CANCELED)).then_some(root)
}

/// A path, without opening what is there.
fn open_dir(at: impl std::os::fd::AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

struct Teller<'a> {
    echo: &'a Echo,
    branch: &'a Branch,
    cache: &'a KernelCache,
    root: OwnedFd,
}

impl Teller<'_> {
    fn tell(&self, change: &Change) -> io::Result<()> {
        match change {
            Change::Created { node, at, .. } => self.created(node, at),
            Change::Removed { node, at } => self.removed(node, at),
            Change::Renamed {
                node,
                from,
                to,
                how,
            } => self.renamed(node, from, to, how),
            Change::Written {
                node, at: Some(at), ..
            }
            | Change::Resized {
                node, at: Some(at), ..
            } => self.times(node, at, UTIME_OMIT, 0),
            Change::Xattr {
                node, at: Some(at), ..
            } => self.times(node, at, 0, 0),
            Change::Attributes {
                node,
                at: Some(at),
                set,
            } => match set {
                Attributes {
                    mode: false,
                    owner: false,
                    atime,
                    mtime,
                } if atime != mtime => {
                    let part = |is_set: &bool| if *is_set { 0 } else { UTIME_OMIT };
                    self.times(node, at, part(atime), part(mtime))
                }
                _ => self.times(node, at, 0, 0),
            },
            Change::Closed {
                node,
                at: Some(at),
                write: true,
                ..
            } if node.kind == ObjectKind::File && node.nlink > 0 => self.closed(node, at),
            Change::Written { .. }
            | Change::Resized { .. }
            | Change::Xattr { .. }
            | Change::Attributes { .. }
            | Change::Closed { .. }
            | Change::Opened { .. }
            | Change::Read { .. }
            | Change::BranchCreated { .. }
            | Change::SnapshotCreated { .. } => Ok(()),
        }
    }

    fn dir(&self, place: &Place) -> io::Result<OwnedFd> {
        let path = place.dir.strip_prefix(b"/").unwrap_or(&place.dir);
        open_dir(&self.root, if path.is_empty() { b"." } else { path })
    }

    /// What the kernel shall believe to be at a name.
    fn pretend(&self, names: &[(&Place, Option<Attr>)], made: Option<Attr>) {
        let names = names
            .iter()
            .map(|(place, attr)| (place.parent, place.name.to_vec(), *attr));
        *lock(&self.echo.plan) = Plan {
            names: names.collect(),
            made,
        };
        self.forget(lock(&self.echo.plan).names.clone());
    }

    /// It asks for the names, then.
    fn forget(&self, names: Vec<(NodeId, Vec<u8>, Option<Attr>)>) {
        for (parent, name, _) in names {
            self.cache.forget_name(parent, &name);
        }
    }

    /// Again, while somebody else looks the names up in between.
    fn attempt(&self, mut call: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
        let mut told = call();
        for _ in 1..ATTEMPTS {
            match told {
                Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOENT) => {}
                other => return Ok(other?),
            }
            let names = lock(&self.echo.plan).names.clone();
            self.forget(names);
            told = call();
        }
        Ok(told?)
    }

    /// The object as it is, or as it was.
    fn attr(&self, node: &NodeRef) -> Attr {
        let known = self.branch.getattr(node.id).ok();
        known
            .or_else(|| self.cache.ghost(node.id))
            .unwrap_or_else(|| vanished(node))
    }

    /// Another object, or none, may have the name by now.
    fn find_again(&self, node: &NodeRef, at: &Place) {
        let found = self.branch.lookup(&Caller::root(), at.parent, &at.name);
        if !found.is_ok_and(|attr| attr.node == node.id) {
            self.pretend(&[(at, Some(self.attr(node)))], None);
        }
    }

    fn created(&self, made: &NodeRef, at: &Place) -> io::Result<()> {
        let dir = self.dir(at)?;
        let attr = self.attr(made);
        self.pretend(&[(at, None)], Some(attr));
        let (name, mode) = (&*at.name, Mode::from_raw_mode(attr.mode & 0o777));
        self.attempt(|| match made.kind {
            ObjectKind::Directory => rustix::fs::mkdirat(&dir, name, mode),
            ObjectKind::Symlink => rustix::fs::symlinkat("-", &dir, name),
            ObjectKind::File
            | ObjectKind::Fifo
            | ObjectKind::Socket
            | ObjectKind::CharDevice
            | ObjectKind::BlockDevice => {
                let kind = rustix::fs::FileType::from_raw_mode(attr.st_mode());
                rustix::fs::mknodat(&dir, name, kind, mode, attr.rdev)
            }
        })
    }

    fn removed(&self, gone: &NodeRef, at: &Place) -> io::Result<()> {
        let dir = self.dir(at)?;
        let is_dir = gone.kind.is_dir();
        let attr = Attr {
            nlink: if is_dir { 2 } else { gone.nlink + 1 },
            ..self.attr(gone)
        };
        self.pretend(&[(at, Some(attr))], None);
        let flags = if is_dir {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        self.attempt(|| rustix::fs::unlinkat(&dir, &*at.name, flags))
    }

    fn renamed(
        &self,
        moved: &NodeRef,
        from: &Place,
        to: &Place,
        how: &RenameHow,
    ) -> io::Result<()> {
        let (old, new) = (self.dir(from)?, self.dir(to)?);
        let (target, flags) = match how {
            RenameHow::Free => (None, RenameFlags::empty()),
            RenameHow::Replaced(other) => {
                let is_dir = other.kind.is_dir();
                let attr = Attr {
                    nlink: if is_dir { 2 } else { other.nlink + 1 },
                    ..self.attr(other)
                };
                (Some(attr), RenameFlags::empty())
            }
            RenameHow::ExchangeFirst(other) => (Some(self.attr(other)), RenameFlags::EXCHANGE),
            // The first half was both.
            RenameHow::ExchangeSecond(_) => return Ok(()),
        };
        let attr = self.attr(moved);
        self.pretend(&[(from, Some(attr)), (to, target)], None);
        self.attempt(|| rustix::fs::renameat_with(&old, &*from.name, &new, &*to.name, flags))
    }

    /// Sets times, which the answer leaves as they are: modified, or attributes changed.
    fn times(&self, node: &NodeRef, at: &Place, atime: i64, mtime: i64) -> io::Result<()> {
        let dir = self.dir(at)?;
        self.find_again(node, at);
        let time = |tv_nsec: i64| Timespec { tv_sec: 1, tv_nsec };
        let times = Timestamps {
            last_access: time(atime),
            last_modification: time(mtime),
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::utimensat(&dir, &*at.name, &times, flags)?)
    }

    fn closed(&self, node: &NodeRef, at: &Place) -> io::Result<()> {
        let dir = self.dir(at)?;
        self.find_again(node, at);
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        drop(rustix::fs::openat(&dir, &*at.name, flags, Mode::empty())?);
        Ok(())
    }
}

/// An object of which nothing is left but its number.
fn vanished(node: &NodeRef) -> Attr {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    Attr {
        node: node.id,
        kind: node.kind,
        mode: 0o600,
        nlink: node.nlink,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        size: 0,
        blocks: 0,
        rdev: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    }
}

/// Answers to our own requests: nothing may be remembered, because more may have happened since.
impl Adapter {
    /// True in place of an answer when the name is to be looked up as for anybody.
    pub(crate) fn echo_lookup(&self, parent: INodeNo, name: &OsStr) -> Option<Result<Attr, Errno>> {
        if name == PROBE {
            return Some(Err(Errno::from_i32(
                rustix::io::Errno::CANCELED.raw_os_error(),
            )));
        }
        let plan = lock(&self.echo.plan);
        let known = plan
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
        let made = lock(&self.echo.plan).made;
        self.echo_entry(parent, made.ok_or(Errno::ESTALE), reply);
    }

    pub(crate) fn echo_attr(&self, inode: INodeNo, reply: ReplyAttr) {
        let node = node(inode);
        let known = self.branch.getattr(node).ok();
        let planned = || {
            let plan = lock(&self.echo.plan);
            let mut all = plan.names.iter().filter_map(|(_, _, attr)| *attr);
            all.find(|attr| attr.node == node)
        };
        match known.or_else(|| self.cache.ghost(node)).or_else(planned) {
            Some(attr) => reply.attr(&NEVER, &self.shown(&attr)),
            None => reply.error(Errno::ESTALE),
        }
    }
}

pub(crate) fn echo_opened(reply: ReplyOpen) {
    reply.opened(HANDLE, FopenFlags::FOPEN_KEEP_CACHE);
}

/// Answers the end of a file that was opened for an echo; gives the reply back for any other.
pub(crate) fn echo_released(file: FileHandle, reply: ReplyEmpty) -> Option<ReplyEmpty> {
    if file == HANDLE {
        reply.ok();
        None
    } else {
        Some(reply)
    }
}
