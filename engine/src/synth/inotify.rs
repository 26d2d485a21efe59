//! What inotify says (`fs/notify/fsnotify.c`, `include/linux/fsnotify.h`).
//!
//! Ordinary file events reach the directory first and then the object; link-count and self events
//! reach the object before the directory hears of the entry.

#![expect(
    missing_docs,
    reason = "constants copied from <sys/inotify.h> keep their names and meaning"
)]

use agentfs_core::event::{Attributes, Change, CreatedBy, NodeRef, Place, RenameHow, ResizedBy};

use super::{Role, Short};

pub const IN_ACCESS: u32 = 0x1;
pub const IN_MODIFY: u32 = 0x2;
pub const IN_ATTRIB: u32 = 0x4;
pub const IN_CLOSE_WRITE: u32 = 0x8;
pub const IN_CLOSE_NOWRITE: u32 = 0x10;
pub const IN_OPEN: u32 = 0x20;
pub const IN_MOVED_FROM: u32 = 0x40;
pub const IN_MOVED_TO: u32 = 0x80;
pub const IN_CREATE: u32 = 0x100;
pub const IN_DELETE: u32 = 0x200;
pub const IN_DELETE_SELF: u32 = 0x400;
pub const IN_MOVE_SELF: u32 = 0x800;
pub const IN_ALL_EVENTS: u32 = 0xFFF;
pub const IN_UNMOUNT: u32 = 0x2000;
pub const IN_Q_OVERFLOW: u32 = 0x4000;
pub const IN_IGNORED: u32 = 0x8000;
pub const IN_EXCL_UNLINK: u32 = 0x0400_0000;
pub const IN_MASK_ADD: u32 = 0x2000_0000;
pub const IN_ISDIR: u32 = 0x4000_0000;
pub const IN_ONESHOT: u32 = 0x8000_0000;

/// The events of opening, reading and closing, which FsCore emits only if a sink wants them.
pub const ACTIVITY: u32 = IN_ACCESS | IN_CLOSE_WRITE | IN_CLOSE_NOWRITE | IN_OPEN;

/// Which entry name an event carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum EntryName {
    /// None: the event is about the watched inode itself.
    #[default]
    None,
    /// The name by which the object was reached; the old name of a rename.
    Old,
    /// The new name of a rename.
    New,
}

/// One event for the watches of one node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Step {
    /// The node whose watches hear it.
    pub role: Role,
    /// `IN_*`, with `IN_ISDIR`.
    pub mask: u32,
    /// The entry it names.
    pub name: EntryName,
    /// Whether the event came through an open file whose name is removed. Watches with
    /// `IN_EXCL_UNLINK` do not hear such an event.
    pub by_unlinked_path: bool,
}

impl Step {
    /// Returns whether this is one half of a rename, which carries its cookie.
    #[must_use]
    pub fn has_cookie(&self) -> bool {
        self.mask & (IN_MOVED_FROM | IN_MOVED_TO) != 0
    }
}

/// The events of one change, in order.
pub type Steps = Short<Step, 6>;

/// What a watch hears of a step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Heard {
    /// Nothing.
    No,
    /// An event.
    Event,
    /// An event, then `IN_IGNORED`, and the watch is gone (`IN_ONESHOT`).
    LastEvent,
    /// `IN_IGNORED`: the inode is gone and the watch with it.
    Ignored,
}

/// Returns what a watch with this mask hears of a step.
#[must_use]
#[inline]
pub fn hear(watch_mask: u32, step: &Step) -> Heard {
    if step.mask == IN_IGNORED {
        return Heard::Ignored;
    }
    let excluded = step.by_unlinked_path && watch_mask & IN_EXCL_UNLINK != 0;
    if excluded || step.mask & watch_mask & IN_ALL_EVENTS == 0 {
        Heard::No
    } else if watch_mask & IN_ONESHOT != 0 {
        Heard::LastEvent
    } else {
        Heard::Event
    }
}

/// Returns the events of a change, in the order in which one inotify instance queues them.
#[must_use]
pub fn steps(change: &Change) -> Steps {
    let mut steps = Steps::default();
    match change {
        Change::Created { node, by, .. } => {
            match by {
                CreatedBy::New => {}
                CreatedBy::Link | CreatedBy::LinkTmpfile => {
                    steps.push(on(Role::Object, IN_ATTRIB));
                }
            }
            steps.push(entry(Role::Parent, IN_CREATE | isdir(node), EntryName::Old));
        }
        Change::Removed { node, .. } => removed(&mut steps, node),
        Change::Written { node, at, .. } => used(&mut steps, node, at.as_ref(), IN_MODIFY),
        Change::Resized { node, at, by, .. } => match by {
            ResizedBy::Truncate | ResizedBy::OpenTruncate => {
                changed(&mut steps, node, at.as_ref(), IN_MODIFY);
            }
            ResizedBy::Allocate => used(&mut steps, node, at.as_ref(), IN_MODIFY),
        },
        Change::Attributes { node, at, set } => {
            changed(&mut steps, node, at.as_ref(), attribute_mask(*set));
        }
        Change::Xattr { node, at, .. } => changed(&mut steps, node, at.as_ref(), IN_ATTRIB),
        Change::Renamed { node, how, .. } => renamed(&mut steps, node, how),
        Change::Opened { node, at } => used(&mut steps, node, at.as_ref(), IN_OPEN),
        Change::Read { node, at } => used(&mut steps, node, at.as_ref(), IN_ACCESS),
        Change::Closed {
            node, at, write, ..
        } => {
            let mask = if *write {
                IN_CLOSE_WRITE
            } else {
                IN_CLOSE_NOWRITE
            };
            used(&mut steps, node, at.as_ref(), mask);
            gone(&mut steps, Role::Object, node);
        }
        Change::BranchCreated { .. } | Change::SnapshotCreated { .. } => {}
    }
    steps
}

/// Returns the mask as `fsnotify_change` does: setting both times is a change of attributes, setting
/// one is an access or a modification.
fn attribute_mask(set: Attributes) -> u32 {
    let times = match (set.atime, set.mtime) {
        (true, true) => IN_ATTRIB,
        (true, false) => IN_ACCESS,
        (false, true) => IN_MODIFY,
        (false, false) => 0,
    };
    let others = if set.mode || set.owner { IN_ATTRIB } else { 0 };
    times | others
}

fn removed(steps: &mut Steps, node: &NodeRef) {
    if !node.kind.is_dir() {
        steps.push(on(Role::Object, IN_ATTRIB));
    }
    gone(steps, Role::Object, node);
    steps.push(entry(Role::Parent, IN_DELETE | isdir(node), EntryName::Old));
}

fn renamed(steps: &mut Steps, node: &NodeRef, how: &RenameHow) {
    let dir = isdir(node);
    steps.push(entry(Role::Parent, IN_MOVED_FROM | dir, EntryName::Old));
    steps.push(entry(Role::NewParent, IN_MOVED_TO | dir, EntryName::New));
    if let RenameHow::Replaced(target) = how {
        steps.push(on(Role::Replaced, IN_ATTRIB | isdir(target)));
    }
    steps.push(on(Role::Object, IN_MOVE_SELF));
    if let RenameHow::Replaced(target) = how {
        gone(steps, Role::Replaced, target);
    }
}

/// Adds the events of the last end of a node, as `fsnotify_inoderemove` does. Neither has `IN_ISDIR`.
fn gone(steps: &mut Steps, role: Role, node: &NodeRef) {
    if node.is_gone() {
        steps.push(on(role, IN_DELETE_SELF));
        steps.push(on(role, IN_IGNORED));
    }
}

/// Adds an event of an open file, as `fsnotify_path` does.
fn used(steps: &mut Steps, node: &NodeRef, at: Option<&Place>, mask: u32) {
    both(steps, node, at, mask, node.nlink == 0);
}

/// Adds an event of a name, even if an open file led there, as `fsnotify_dentry` does.
fn changed(steps: &mut Steps, node: &NodeRef, at: Option<&Place>, mask: u32) {
    both(steps, node, at, mask, false);
}

fn both(steps: &mut Steps, node: &NodeRef, at: Option<&Place>, mask: u32, by_unlinked_path: bool) {
    let mask = mask | isdir(node);
    if at.is_some() {
        steps.push(Step {
            by_unlinked_path,
            ..entry(Role::Parent, mask, EntryName::Old)
        });
    }
    steps.push(Step {
        by_unlinked_path,
        ..on(Role::Object, mask)
    });
}

fn isdir(node: &NodeRef) -> u32 {
    if node.kind.is_dir() { IN_ISDIR } else { 0 }
}

fn on(role: Role, mask: u32) -> Step {
    entry(role, mask, EntryName::None)
}

fn entry(role: Role, mask: u32, name: EntryName) -> Step {
    Step {
        role,
        mask,
        name,
        by_unlinked_path: false,
    }
}
