//! Events: what FsCore emits about a committed change.
//!
//! [`EventKind`] is the simple form: one value per change, with canonical paths. [`Envelope`] has
//! everything: the origin of the change, which node changed, by which name, and how the node was just
//! after the commit. It carries every detail on which a kernel's notification depends, so that its
//! receiver can build what inotify, kqueue or FSEvents would have reported without looking at the
//! filesystem again.

mod change;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::config::LONGEST_PATH;
use crate::model::id::{BranchId, MountId, NodeId, Seq, SessionId, SnapshotId};

/// One change, with canonical absolute paths of the branch it happened in (`/` is its root).
///
/// When the filesystem is case-insensitive the paths have the stored spelling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// A name was created: create, mkdir, symlink, mknod, or a new hard link.
    Created {
        /// The new name.
        path: PathBuf,
    },
    /// A name was removed: unlink or rmdir. The node may still have other names.
    Removed {
        /// The old name.
        path: PathBuf,
    },
    /// Content or attributes changed.
    Modified {
        /// The name by which the node was changed.
        path: PathBuf,
    },
    /// A name moved. An exchange is two of these.
    Renamed {
        /// The old name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
    },
    /// A branch was made.
    BranchCreated {
        /// The new branch.
        id: BranchId,
        /// Its name, or an empty text.
        name: String,
    },
    /// A snapshot was made.
    SnapshotCreated {
        /// The new snapshot.
        id: SnapshotId,
        /// Its name, or an empty text.
        name: String,
    },
}

/// Receives events. See [`FsCore::subscribe_events`](crate::FsCore::subscribe_events).
///
/// The committing thread calls the sink after the commit, holding no lock of the filesystem, so a
/// sink may read the filesystem and change it. It must not wait for another thread that does. A
/// sink that panics is removed, and the panic is logged.
pub trait EventSink: Send + Sync {
    /// Receives one change.
    fn on_event(&self, event: &EventKind);

    /// Receives one change with all its details. By default, forwards to
    /// [`on_event`](Self::on_event) each change that has an [`EventKind`].
    fn on_envelope(&self, envelope: &Envelope) {
        if let Some(kind) = envelope.kind() {
            self.on_event(&kind);
        }
    }

    /// Returns whether the sink wants [`Change::Opened`], [`Change::Read`] and [`Change::Closed`]
    /// as well. Every operation that could emit one asks, so this must be cheap. The answer may
    /// change.
    fn wants_activity(&self) -> bool {
        false
    }

    /// Returns the same for one branch, so that activity which is wanted of another branch costs
    /// nothing here. By default, returns [`wants_activity`](Self::wants_activity).
    ///
    /// The branch's lock is held meanwhile, so this may neither wait nor ask the filesystem.
    fn wants_activity_in(&self, _branch: BranchId) -> bool {
        self.wants_activity()
    }

    /// Ends a batch: the committing thread has no further change for now. A sink that collects in
    /// `on_envelope` sends here.
    fn on_batch_end(&self) {}
}

/// Where a change comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// A caller of this library that named nothing else.
    Local,
    /// A program on a mount. The kernel has announced the change there already.
    Mount(MountId),
    /// A request on a control session.
    Session(SessionId),
    /// The host, in the lower directory below a branch.
    Lower,
    /// A branch was set back to a snapshot.
    Restore,
}

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl ObjectKind {
    /// Returns whether the object is a directory, so that its notifications carry `IN_ISDIR`.
    #[must_use]
    pub fn is_dir(self) -> bool {
        self == Self::Directory
    }
}

/// A node as it was just after the commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeRef {
    /// Which node.
    pub id: NodeId,
    /// What it is.
    pub kind: ObjectKind,
    /// Its names after the change; for a directory the POSIX count (2 and one per subdirectory),
    /// 0 once it is removed.
    pub nlink: u32,
    /// Whether a handle still holds it.
    pub open: bool,
}

impl NodeRef {
    /// Returns whether the change took the last name of the object and no handle holds it. At that
    /// moment inotify reports `IN_DELETE_SELF`. While a handle holds the object, the moment is the
    /// [`Change::Closed`] of the last handle.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.nlink == 0 && !self.open
    }
}

/// One component of a path: any bytes but `/` and NUL, shared with the directory that stores it.
pub type Name = Arc<[u8]>;

/// A name in a directory: a dentry, in the kernel's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The directory.
    pub parent: NodeId,
    /// The directory's canonical path at the commit, without a trailing slash: empty for the root.
    /// Where that is longer than a system call takes (4,095 bytes), the path of the lowest directory
    /// above that has a shorter one, with a slash at its end: see [`is_cut`](Self::is_cut).
    pub dir: Arc<[u8]>,
    /// The name in it, in the stored spelling.
    pub name: Name,
}

impl Place {
    /// Returns whether the name lies too deep for a path, so that [`path`](Self::path) does not
    /// lead to it.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.dir.ends_with(b"/") || self.dir.len() + 1 + self.name.len() > LONGEST_PATH
    }

    /// Returns the canonical absolute path at the commit.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let mut bytes = Vec::with_capacity(self.dir.len() + 1 + self.name.len());
        bytes.extend_from_slice(&self.dir);
        bytes.push(b'/');
        bytes.extend_from_slice(&self.name);
        PathBuf::from(OsStr::from_bytes(&bytes))
    }
}

/// What happened to the size of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SizeChange {
    /// The file ends later now.
    Grew,
    /// The file ends earlier now.
    Shrank,
    /// The size is what it was.
    Same,
}

/// What made a [`Change::Created`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CreatedBy {
    /// A new object: open with `O_CREAT`, mkdir, symlink, mknod.
    New,
    /// A further name of an object that exists: link.
    Link,
    /// The first name of an `O_TMPFILE` file: link of a nameless node.
    LinkTmpfile,
}

/// What changed the size in a [`Change::Resized`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ResizedBy {
    /// truncate or ftruncate.
    Truncate,
    /// open with `O_TRUNC`, on a file that existed.
    OpenTruncate,
    /// fallocate.
    Allocate,
}

/// Which attributes one call set, changed or not. An event always has at least one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Attributes {
    /// chmod.
    pub mode: bool,
    /// chown: owner or group.
    pub owner: bool,
    /// utimens: access time.
    pub atime: bool,
    /// utimens: modification time.
    pub mtime: bool,
}

/// How a name moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameHow {
    /// To a free name.
    Free,
    /// Over another object, which lost that name.
    Replaced(NodeRef),
    /// The first half of `RENAME_EXCHANGE`: the object named first in the call. The other object
    /// follows in the next event.
    ExchangeFirst(NodeRef),
    /// The second half of `RENAME_EXCHANGE`, with the object named first.
    ExchangeSecond(NodeRef),
}

/// One change, with every detail that a notification depends on.
///
/// `at` is the name by which the operation reached the node. If it reached the node by number, `at`
/// is any name of it. `at` is `None` only for a node that never had a name (`O_TMPFILE`) and for
/// the root directory.
///
/// If a node is changed through a handle after its name was removed, `at` is the name that it had,
/// and `NodeRef::nlink` shows that the name is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// [`EventKind::Created`].
    Created {
        /// The object.
        node: NodeRef,
        /// Its new name.
        at: Place,
        /// A new object or a new name.
        by: CreatedBy,
    },
    /// [`EventKind::Removed`]: unlink, rmdir.
    Removed {
        /// The object.
        node: NodeRef,
        /// The name it lost.
        at: Place,
    },
    /// [`EventKind::Modified`]: at least one byte was written. One per write call.
    Written {
        /// The file.
        node: NodeRef,
        /// The name by which it was reached.
        at: Option<Place>,
        /// [`SizeChange::Grew`] or [`SizeChange::Same`].
        size: SizeChange,
    },
    /// [`EventKind::Modified`]: truncate, `O_TRUNC`, fallocate.
    Resized {
        /// The file.
        node: NodeRef,
        /// The name by which it was reached.
        at: Option<Place>,
        /// What became of the size.
        size: SizeChange,
        /// The call.
        by: ResizedBy,
    },
    /// [`EventKind::Modified`]: chmod, chown, utimens.
    Attributes {
        /// The object.
        node: NodeRef,
        /// The name by which it was reached.
        at: Option<Place>,
        /// What was set.
        set: Attributes,
    },
    /// [`EventKind::Modified`]: an extended attribute was set or removed.
    Xattr {
        /// The object.
        node: NodeRef,
        /// The name by which it was reached.
        at: Option<Place>,
        /// Whether it was removed.
        removed: bool,
    },
    /// [`EventKind::Renamed`].
    Renamed {
        /// The object that moved.
        node: NodeRef,
        /// The old name.
        from: Place,
        /// The new name.
        to: Place,
        /// What was there.
        how: RenameHow,
    },
    /// [`EventKind::BranchCreated`].
    BranchCreated {
        /// The new branch.
        id: BranchId,
        /// Its name.
        name: Arc<str>,
    },
    /// [`EventKind::SnapshotCreated`].
    SnapshotCreated {
        /// The new snapshot.
        id: SnapshotId,
        /// Its name.
        name: Arc<str>,
    },
    /// Activity, without an [`EventKind`]: an object was opened (after [`Change::Created`], before
    /// [`Change::Resized`] of the same call). Directories too.
    Opened {
        /// The object.
        node: NodeRef,
        /// The name by which it was reached.
        at: Option<Place>,
    },
    /// Activity: at least one byte, or one directory entry, was read.
    Read {
        /// The object.
        node: NodeRef,
        /// The name by which it was reached.
        at: Option<Place>,
    },
    /// Activity: a handle was closed. When `node` [`is_gone`](NodeRef::is_gone) afterwards this was
    /// the last thing that held it, and this event is emitted whether or not a sink asked for
    /// activity.
    Closed {
        /// The object.
        node: NodeRef,
        /// The name by which it had been opened, followed through renames.
        at: Option<Place>,
        /// Whether the handle could write.
        write: bool,
        /// Whether anything was written or truncated through it, `O_TRUNC` on a file that existed
        /// included. XNU reports `FSE_CONTENT_MODIFIED` then (`vfs_vnops.c: vn_close`).
        written: bool,
    },
}

/// A change, with its place in the branch's history. It is made under the branch's lock and
/// delivered after the lock is released.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Commit order in `branch`.
    pub seq: Seq,
    /// When it was committed: nanoseconds since the epoch.
    pub time_ns: u64,
    /// The branch that changed.
    pub branch: BranchId,
    /// The process that acted, or 0 when it is not known.
    pub pid: u32,
    /// How its request arrived.
    pub origin: Origin,
    /// The change.
    pub change: Change,
}

impl Envelope {
    /// Returns the simple form, or `None` for activity.
    #[must_use]
    pub fn kind(&self) -> Option<EventKind> {
        let at = |place: &Option<Place>| {
            place
                .as_ref()
                .map_or_else(|| PathBuf::from("/"), Place::path)
        };
        Some(match &self.change {
            Change::Created { at, .. } => EventKind::Created { path: at.path() },
            Change::Removed { at, .. } => EventKind::Removed { path: at.path() },
            Change::Written { at: place, .. }
            | Change::Resized { at: place, .. }
            | Change::Attributes { at: place, .. }
            | Change::Xattr { at: place, .. } => EventKind::Modified { path: at(place) },
            Change::Renamed { from, to, .. } => EventKind::Renamed {
                from: from.path(),
                to: to.path(),
            },
            Change::BranchCreated { id, name } => EventKind::BranchCreated {
                id: *id,
                name: name.to_string(),
            },
            Change::SnapshotCreated { id, name } => EventKind::SnapshotCreated {
                id: *id,
                name: name.to_string(),
            },
            Change::Opened { .. } | Change::Read { .. } | Change::Closed { .. } => return None,
        })
    }
}
