//! What an FSEvents stream says (`bsd/vfs/vfs_fsevents.c`; the item flags are fseventsd's).
//!
//! A stream made with `kFSEventStreamCreateFlagFileEvents` gets an entry for each item, any other
//! stream an entry for each changed directory. An entry has the flags of one event; fseventsd adds
//! flags of earlier events of the path, which is not imitated.

#![expect(
    missing_docs,
    reason = "constants copied from FSEvents.h keep their meaning"
)]

use agentfs_core::event::{Attributes, Change, CreatedBy, NodeRef, ObjectKind};

use super::Short;

pub const MUST_SCAN_SUB_DIRS: u32 = 0x1;
pub const USER_DROPPED: u32 = 0x2;
pub const ROOT_CHANGED: u32 = 0x20;
pub const ITEM_CREATED: u32 = 0x100;
pub const ITEM_REMOVED: u32 = 0x200;
pub const ITEM_INODE_META_MOD: u32 = 0x400;
pub const ITEM_RENAMED: u32 = 0x800;
pub const ITEM_MODIFIED: u32 = 0x1000;
pub const ITEM_CHANGE_OWNER: u32 = 0x4000;
pub const ITEM_XATTR_MOD: u32 = 0x8000;
pub const ITEM_IS_FILE: u32 = 0x1_0000;
pub const ITEM_IS_DIR: u32 = 0x2_0000;
pub const ITEM_IS_SYMLINK: u32 = 0x4_0000;
pub const ITEM_IS_HARDLINK: u32 = 0x10_0000;
pub const ITEM_IS_LAST_HARDLINK: u32 = 0x20_0000;

/// `kFSEventStreamCreateFlagWatchRoot`.
pub const CREATE_WATCH_ROOT: u32 = 0x04;
/// `kFSEventStreamCreateFlagFileEvents`.
pub const CREATE_FILE_EVENTS: u32 = 0x10;

/// The path that an entry is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum At {
    /// The name by which the object was reached; the old name of a rename.
    #[default]
    Old,
    /// The new name of a rename.
    New,
}

/// One entry of a file-level stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Entry {
    /// The path. A directory-level stream names the directory it lies in instead.
    pub at: At,
    /// `kFSEventStreamEventFlagItem*`. A directory-level stream says 0 instead.
    pub flags: u32,
}

/// The entries of one change, in order.
pub type Entries = Short<Entry, 2>;

/// Returns the entries of a change.
///
/// New content has its entry at the close of the handle that wrote it, as on XNU; truncation and
/// attributes have theirs at once.
#[must_use]
pub fn entries(change: &Change) -> Entries {
    let one = |node: &NodeRef, flags: u32| {
        let entry = Entry {
            at: At::Old,
            flags: flags | item(node),
        };
        if flags == 0 {
            Entries::default()
        } else {
            Entries::of(&[entry])
        }
    };
    match change {
        Change::Created { node, by, .. } => match by {
            CreatedBy::New => one(node, ITEM_CREATED),
            CreatedBy::Link | CreatedBy::LinkTmpfile => one(node, ITEM_CREATED | hardlink(node)),
        },
        Change::Removed { node, .. } => one(node, ITEM_REMOVED | removed_hardlink(node)),
        Change::Resized { node, .. } => one(node, ITEM_INODE_META_MOD),
        Change::Attributes { node, set, .. } => one(node, attribute_flags(*set)),
        Change::Xattr { node, .. } => one(node, ITEM_XATTR_MOD),
        Change::Closed { node, written, .. } => {
            let modified = *written && node.nlink > 0;
            one(
                node,
                if modified {
                    ITEM_MODIFIED | ITEM_INODE_META_MOD
                } else {
                    0
                },
            )
        }
        Change::Renamed { node, .. } => {
            let flags = ITEM_RENAMED | item(node);
            Entries::of(&[Entry { at: At::Old, flags }, Entry { at: At::New, flags }])
        }
        Change::Written { .. }
        | Change::Opened { .. }
        | Change::Read { .. }
        | Change::BranchCreated { .. }
        | Change::SnapshotCreated { .. } => Entries::default(),
    }
}

/// Returns the flags of changed attributes. All permission bits are one kernel event, which fseventsd
/// calls a change of owner. An access time alone has no entry.
fn attribute_flags(set: Attributes) -> u32 {
    let owner = if set.mode || set.owner {
        ITEM_CHANGE_OWNER
    } else {
        0
    };
    let times = if set.mtime { ITEM_INODE_META_MOD } else { 0 };
    owner | times
}

fn item(node: &NodeRef) -> u32 {
    match node.kind {
        ObjectKind::Directory => ITEM_IS_DIR,
        ObjectKind::Symlink => ITEM_IS_SYMLINK,
        ObjectKind::File
        | ObjectKind::Fifo
        | ObjectKind::Socket
        | ObjectKind::CharDevice
        | ObjectKind::BlockDevice => ITEM_IS_FILE,
    }
}

fn hardlink(node: &NodeRef) -> u32 {
    if !node.kind.is_dir() && node.nlink > 1 {
        ITEM_IS_HARDLINK
    } else {
        0
    }
}

/// Returns the flags of a removed hard link: a file whose other names remain was one. Whether a file
/// without names ever had two is not known.
fn removed_hardlink(node: &NodeRef) -> u32 {
    if !node.kind.is_dir() && node.nlink > 0 {
        ITEM_IS_HARDLINK
    } else {
        0
    }
}
