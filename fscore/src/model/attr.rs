//! The attributes of objects: what stat, setattr, readdir and statfs exchange.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::event::{Name, ObjectKind};
use crate::model::id::NodeId;

/// A moment: nanoseconds since the epoch, negative before it.
///
/// Reaches from 1677 to 2262; what a caller sets beyond that is clamped to it.
pub type Nanos = i64;

/// The metadata of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Which node: `st_ino`.
    pub node: NodeId,
    /// What it is.
    pub kind: ObjectKind,
    /// Permission bits with setuid, setgid and sticky: `mode & 0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of the object; of a directory 2 and one per subdirectory.
    pub nlink: u32,
    /// Device number of a device node (Linux encoding), otherwise 0.
    pub rdev: u64,
    /// Bytes. Of a symbolic link the length of its target, of a directory 20 per entry, with
    /// `.` and `..`, as on tmpfs.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Last access. Reading does not move it (as under `noatime`); creation and utimens set it.
    pub atime: Nanos,
    /// Last change of content.
    pub mtime: Nanos,
    /// Last change of anything.
    pub ctime: Nanos,
    /// Creation.
    pub btime: Nanos,
}

impl Attr {
    /// Returns `st_mode`: the type and the permission bits.
    #[must_use]
    pub fn st_mode(&self) -> u32 {
        file_type(self.kind) | self.mode
    }
}

/// `S_IFMT`.
pub(crate) const TYPE_MASK: u32 = 0o170_000;
pub(crate) const SETUID: u32 = 0o4000;
pub(crate) const SETGID: u32 = 0o2000;
pub(crate) const STICKY: u32 = 0o1000;
pub(crate) const GROUP_EXECUTE: u32 = 0o010;

/// Returns the `S_IF*` bits of a kind of object.
#[must_use]
pub const fn file_type(kind: ObjectKind) -> u32 {
    match kind {
        ObjectKind::Fifo => 0o010_000,
        ObjectKind::CharDevice => 0o020_000,
        ObjectKind::Directory => 0o040_000,
        ObjectKind::BlockDevice => 0o060_000,
        ObjectKind::File => 0o100_000,
        ObjectKind::Symlink => 0o120_000,
        ObjectKind::Socket => 0o140_000,
    }
}

/// Returns the kind that the `S_IF*` bits of a mode name.
#[must_use]
pub const fn kind_of_mode(mode: u32) -> Option<ObjectKind> {
    Some(match mode & TYPE_MASK {
        0o010_000 => ObjectKind::Fifo,
        0o020_000 => ObjectKind::CharDevice,
        0o040_000 => ObjectKind::Directory,
        0o060_000 => ObjectKind::BlockDevice,
        0o100_000 => ObjectKind::File,
        0o120_000 => ObjectKind::Symlink,
        0o140_000 => ObjectKind::Socket,
        _ => return None,
    })
}

/// A time that utimens sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// `UTIME_NOW`.
    Now,
    /// This moment.
    To(Nanos),
}

/// What one setattr call sets. An attribute that is `None` stays as it is.
///
/// A call that sets the size is a truncate, one that sets the mode a chmod, and so on; each kind
/// emits its own event, in the order size, mode and owner and times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// truncate.
    pub size: Option<u64>,
    /// chmod: `mode & 0o7777`.
    pub mode: Option<u32>,
    /// chown: owner.
    pub uid: Option<u32>,
    /// chown: group.
    pub gid: Option<u32>,
    /// utimens: access time.
    pub atime: Option<SetTime>,
    /// utimens: modification time.
    pub mtime: Option<SetTime>,
}

/// One entry that readdir returns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The name, `.` and `..` included.
    pub name: Name,
    /// What it names.
    pub node: NodeId,
    /// Of which kind.
    pub kind: ObjectKind,
    /// Where reading continues after this entry. It stays valid while other entries come and go,
    /// and fits `off_t`.
    pub cookie: u64,
}

/// Where [`Branch::seek`](crate::Branch::seek) moves to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// `SEEK_SET`.
    Set(i64),
    /// `SEEK_CUR`.
    Current(i64),
    /// `SEEK_END`.
    End(i64),
    /// `SEEK_DATA`.
    Data(i64),
    /// `SEEK_HOLE`.
    Hole(i64),
}

/// What statfs reports: the blocks and nodes of a branch, and its limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatFs {
    /// Bytes in a block.
    pub block_size: u32,
    /// Blocks that the limit allows.
    pub blocks: u64,
    /// Of these, not in use.
    pub blocks_free: u64,
    /// Nodes that the limit allows.
    pub files: u64,
    /// Of these, not in use.
    pub files_free: u64,
    /// Longest name.
    pub name_max: u32,
}

/// The times of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Times {
    pub(crate) atime: Nanos,
    pub(crate) mtime: Nanos,
    pub(crate) ctime: Nanos,
    pub(crate) btime: Nanos,
}

impl Times {
    pub(crate) fn at(now: Nanos) -> Self {
        Self {
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        }
    }
}

/// Extended attributes, in the order in which they are listed.
pub(crate) type Xattrs = BTreeMap<Box<[u8]>, Arc<[u8]>>;

/// Returns the current time, as files record it.
pub(crate) fn now() -> Nanos {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
