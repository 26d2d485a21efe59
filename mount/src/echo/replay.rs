//! Makes the system call that would have made a change, on the mount where it is replayed.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, SystemTime};

use agentfs_core::event::{Attributes, Change, NodeRef, ObjectKind, Place, RenameHow};
use agentfs_core::id::NodeId;
use agentfs_core::{Attr, Branch, Caller};
use rustix::fs::{AtFlags, Dev, Mode, RenameFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::echo::open_beneath;
use crate::echo::{Echo, PlannedReplies};
use crate::kernel_cache::KernelCache;

/// How often a name is taken out of the kernel's cache when programs look it up at the same time.
const ATTEMPTS: usize = 8;

/// Replays changes on one mount, the root of which it holds.
pub(crate) struct Replayer<'a> {
    pub(crate) echo: &'a Echo,
    pub(crate) branch: &'a Branch,
    pub(crate) cache: &'a KernelCache,
    pub(crate) device: Dev,
    pub(crate) root: OwnedFd,
}

/// A name, with its directory on the mount opened.
struct OpenedPlace<'a> {
    dir: OwnedFd,
    at: &'a Place,
}

impl Replayer<'_> {
    pub(crate) fn replay(&self, change: &Change) -> io::Result<()> {
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

    /// Opens the directory of a place. It may have another path by now.
    fn open_place<'p>(&self, at: &'p Place) -> io::Result<OpenedPlace<'p>> {
        let open = |path: &[u8]| open_beneath::dir(&self.root, self.device, path, at.parent);
        let dir = open(&at.dir).or_else(|error| {
            let moved = self.branch.path_of(at.parent);
            let moved = moved.filter(|it| it.as_os_str().as_bytes() != &*at.dir);
            open(moved.ok_or(error)?.as_os_str().as_bytes())
        })?;
        Ok(OpenedPlace { dir, at })
    }

    /// Sets what the kernel's requests for these names are answered, and what a request that makes an
    /// object is. The kernel has to forget the names, which would take away what is mounted on one, so
    /// nothing may be.
    fn plan_replies(
        &self,
        names: &[(&OpenedPlace<'_>, Option<Attr>)],
        made: Option<Attr>,
    ) -> io::Result<()> {
        for (place, _) in names {
            if open_beneath::is_covered(&place.dir, self.device, &place.at.name) {
                return Err(ErrorKind::ResourceBusy.into());
            }
        }
        let names: Vec<_> = names
            .iter()
            .map(|(OpenedPlace { at, .. }, attr)| (at.parent, at.name.to_vec(), *attr))
            .collect();
        *self.echo.replies() = PlannedReplies {
            names: names.clone(),
            made,
        };
        self.forget(names);
        Ok(())
    }

    /// Makes the kernel forget the names, so that it asks for them.
    fn forget(&self, names: Vec<(NodeId, Vec<u8>, Option<Attr>)>) {
        for (parent, name, _) in names {
            self.cache.forget_name(parent, &name);
        }
    }

    /// Makes a call, and again while other programs look the names up in between.
    fn retry(&self, mut call: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
        let mut result = call();
        for _ in 1..ATTEMPTS {
            match result {
                Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOENT) => {}
                other => return Ok(other?),
            }
            let names = self.echo.replies().names.clone();
            self.forget(names);
            result = call();
        }
        Ok(result?)
    }

    /// Returns the attributes of an object as they are, or as they were.
    fn attr(&self, node: &NodeRef) -> Attr {
        let known = self.branch.getattr(node.id).ok();
        known
            .or_else(|| self.cache.orphan(node.id))
            .unwrap_or_else(|| vanished(node))
    }

    /// Opens the object by its name, which another object, or none, may have by now: the kernel is
    /// answered that it is this one.
    fn object(&self, node: &NodeRef, at: &Place) -> io::Result<OwnedFd> {
        let place = self.open_place(at)?;
        let found = self.branch.lookup(&Caller::root(), at.parent, &at.name);
        if !found.is_ok_and(|attr| attr.node == node.id) {
            self.plan_replies(&[(&place, Some(self.attr(node)))], None)?;
        }
        open_beneath::object(&place.dir, self.device, &at.name)
    }

    fn created(&self, made: &NodeRef, at: &Place) -> io::Result<()> {
        let place = self.open_place(at)?;
        let attr = self.attr(made);
        self.plan_replies(&[(&place, None)], Some(attr))?;
        let (dir, name) = (&place.dir, &*at.name);
        let mode = Mode::from_raw_mode(attr.mode & 0o777);
        self.retry(|| match made.kind {
            ObjectKind::Directory => rustix::fs::mkdirat(dir, name, mode),
            ObjectKind::Symlink => rustix::fs::symlinkat("-", dir, name),
            ObjectKind::File
            | ObjectKind::Fifo
            | ObjectKind::Socket
            | ObjectKind::CharDevice
            | ObjectKind::BlockDevice => {
                let kind = rustix::fs::FileType::from_raw_mode(attr.st_mode());
                rustix::fs::mknodat(dir, name, kind, mode, attr.rdev)
            }
        })
    }

    fn removed(&self, gone: &NodeRef, at: &Place) -> io::Result<()> {
        let place = self.open_place(at)?;
        let is_dir = gone.kind.is_dir();
        let attr = Attr {
            nlink: if is_dir { 2 } else { gone.nlink + 1 },
            ..self.attr(gone)
        };
        self.plan_replies(&[(&place, Some(attr))], None)?;
        let flags = if is_dir {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        self.retry(|| rustix::fs::unlinkat(&place.dir, &*at.name, flags))
    }

    fn renamed(
        &self,
        moved: &NodeRef,
        from: &Place,
        to: &Place,
        how: &RenameHow,
    ) -> io::Result<()> {
        let (old, new) = (self.open_place(from)?, self.open_place(to)?);
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
        self.plan_replies(&[(&old, Some(attr)), (&new, target)], None)?;
        self.retry(|| {
            let (old, new) = (&old.dir, &new.dir);
            rustix::fs::renameat_with(old, &*from.name, new, &*to.name, flags)
        })
    }

    /// Sets times, which the answer leaves as they are; the kernel notifies that the object was modified
    /// or that its attributes changed.
    fn times(&self, node: &NodeRef, at: &Place, atime: i64, mtime: i64) -> io::Result<()> {
        let object = self.object(node, at)?;
        let time = |tv_nsec: i64| Timespec { tv_sec: 1, tv_nsec };
        let times = Timestamps {
            last_access: time(atime),
            last_modification: time(mtime),
        };
        // Not by the name: something may be mounted on it.
        Ok(rustix::fs::utimensat(
            object,
            "",
            &times,
            AtFlags::EMPTY_PATH,
        )?)
    }

    fn closed(&self, node: &NodeRef, at: &Place) -> io::Result<()> {
        drop(open_beneath::for_writing(&self.object(node, at)?)?);
        Ok(())
    }
}

/// Returns attributes for an object of which nothing is left but its number.
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
