//! `EVFILT_VNODE` as XNU posts it (`bsd/vfs/kpi_vfs.c`, `bsd/kern/ubc_subr.c`).

use agentfs_core::event::{Change, CreatedBy, NodeRef, Place, RenameHow, ResizedBy, SizeChange};

use super::Role;
use super::vnode::{
    NOTE_ATTRIB, NOTE_DELETE, NOTE_EXTEND, NOTE_LINK, NOTE_RENAME, NOTE_WRITE, Posts,
};

/// Returns the posts of a change, in order.
#[must_use]
pub fn posts(change: &Change) -> Posts {
    let mut posts = Posts::default();
    match change {
        Change::Created { node, by, .. } => {
            match by {
                CreatedBy::New => {}
                CreatedBy::Link | CreatedBy::LinkTmpfile => posts.post(Role::Object, NOTE_LINK),
            }
            posts.post(Role::Parent, entry_hint(node));
        }
        Change::Removed { node, .. } => {
            posts.post(Role::Object, NOTE_DELETE | NOTE_LINK);
            posts.post(Role::Parent, entry_hint(node));
        }
        Change::Written { size, .. } => {
            extended(&mut posts, *size);
            posts.post(Role::Object, NOTE_WRITE);
        }
        Change::Resized { size, by, .. } => {
            extended(&mut posts, *size);
            match by {
                ResizedBy::Truncate | ResizedBy::OpenTruncate => {
                    posts.post(Role::Object, NOTE_ATTRIB);
                }
                ResizedBy::Allocate => {}
            }
        }
        Change::Attributes { .. } | Change::Xattr { .. } => posts.post(Role::Object, NOTE_ATTRIB),
        Change::Renamed {
            node,
            from,
            to,
            how,
        } => renamed(&mut posts, node, from, to, how),
        Change::Opened { .. }
        | Change::Read { .. }
        | Change::Closed { .. }
        | Change::BranchCreated { .. }
        | Change::SnapshotCreated { .. } => {}
    }
    posts
}

/// Returns the hint for a directory whose entry came or went. Its link count has its subdirectories
/// in it.
fn entry_hint(node: &NodeRef) -> u32 {
    if node.kind.is_dir() {
        NOTE_WRITE | NOTE_LINK
    } else {
        NOTE_WRITE
    }
}

/// Posts a growth as `ubc_setsize_ex` does, which runs within the operation and so posts before it.
fn extended(posts: &mut Posts, size: SizeChange) {
    if size == SizeChange::Grew {
        posts.post(Role::Object, NOTE_EXTEND);
    }
}

/// Posts a rename as `post_rename` does. An exchange is one rename there, and the other object counts
/// as replaced although it survives.
fn renamed(posts: &mut Posts, node: &NodeRef, from: &Place, to: &Place, how: &RenameHow) {
    let replaces = match how {
        RenameHow::Free => false,
        RenameHow::Replaced(_) | RenameHow::ExchangeFirst(_) => true,
        RenameHow::ExchangeSecond(_) => return,
    };
    let one_parent = from.parent == to.parent;
    let hint = if node.kind.is_dir() && one_parent == replaces {
        NOTE_WRITE | NOTE_LINK
    } else {
        NOTE_WRITE
    };
    posts.post(Role::Parent, hint);
    if !one_parent {
        posts.post(Role::NewParent, hint);
    }
    if replaces {
        posts.post(Role::Replaced, NOTE_DELETE);
    }
    posts.post(Role::Object, NOTE_RENAME);
}
