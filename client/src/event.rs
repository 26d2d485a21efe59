//! One event of a subscription.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use agentfs_proto::record::{EventRef, Kind, flags};

/// What an [`Event`] says.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// A name was made: a new object, or a further name of one.
    Created,
    /// A name was removed.
    Removed,
    /// The content or the attributes of an object changed.
    Modified,
    /// A name moved to the path `to`.
    Renamed {
        /// The new path.
        to: PathBuf,
    },
    /// A branch was made, whose name is in [`Event::path`].
    BranchCreated,
    /// A snapshot was made, whose name is in [`Event::path`].
    SnapshotCreated,
    /// An object was opened. Only with [`activity`](crate::SubscriptionOptions::activity).
    Opened,
    /// An object was read. Only with [`activity`](crate::SubscriptionOptions::activity).
    Read,
    /// A handle was closed. Only with [`activity`](crate::SubscriptionOptions::activity).
    Closed,
    /// Events were lost: the program has to look at everything below its path again.
    Overflow,
    /// The subscription goes on with a new daemon: the program has to look at everything below its
    /// path again, because it has heard nothing of what changed in between.
    Resumed,
}

/// One change in a branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The path in the branch, absolute. Of a rename the old path; empty for
    /// [`Overflow`](EventKind::Overflow) and [`Resumed`](EventKind::Resumed).
    pub path: PathBuf,
    /// Whether the object is a directory.
    pub is_directory: bool,
    /// Whether only attributes or extended attributes changed, and no content.
    pub is_attributes: bool,
    /// Whether the change was not heard but found as the difference of two states of the branch,
    /// because the program had read too slowly.
    pub is_healed: bool,
    /// Whether two names were exchanged. Two such events follow each other, one for each object; the
    /// first says it all, if both names are below the path.
    pub is_exchange: bool,
    /// The position of the change in the order of its branch's commits; 0 when no change is meant.
    pub sequence: u64,
    /// When the change was committed, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// The number of the object, which is its `st_ino` on a mount.
    pub node: u64,
    /// The process that made the change, or 0 when it is not known. For a new branch or snapshot its
    /// number.
    pub actor: u64,
}

impl Event {
    /// Returns an event that stands for no single change.
    pub(crate) fn without_change(kind: EventKind) -> Self {
        Self {
            kind,
            path: PathBuf::new(),
            is_directory: false,
            is_attributes: false,
            is_healed: false,
            is_exchange: false,
            sequence: 0,
            time_ns: 0,
            node: 0,
            actor: 0,
        }
    }

    /// Returns the event that a record of a native queue carries, or `None` for a record that says
    /// nothing to a subscriber: padding, and kinds of a newer daemon.
    pub(crate) fn of_record(record: &EventRef<'_>) -> Option<Self> {
        let head = record.head();
        let path = |bytes: &[u8]| Path::new(OsStr::from_bytes(bytes)).to_owned();
        let kind = match head.kind {
            Kind::CREATED => EventKind::Created,
            Kind::REMOVED => EventKind::Removed,
            Kind::MODIFIED => EventKind::Modified,
            Kind::RENAMED => EventKind::Renamed {
                to: path(record.aux()),
            },
            Kind::BRANCH_CREATED => EventKind::BranchCreated,
            Kind::SNAPSHOT_CREATED => EventKind::SnapshotCreated,
            Kind::OPENED => EventKind::Opened,
            Kind::READ => EventKind::Read,
            Kind::CLOSED => EventKind::Closed,
            Kind::OVERFLOW => EventKind::Overflow,
            _ => return None,
        };
        let has = |flag| head.flags & flag != 0;
        Some(Self {
            kind,
            path: path(record.path()),
            is_directory: has(flags::DIRECTORY),
            is_attributes: has(flags::ATTRIBUTES),
            is_healed: has(flags::HEALED),
            is_exchange: has(flags::EXCHANGE),
            sequence: head.seqno,
            time_ns: head.ts_nanos,
            node: head.node,
            actor: head.data,
        })
    }
}
