//! `EVFILT_VNODE` as FreeBSD posts it (`sys/kern/vfs_subr.c vop_*_post`,
//! `sys/sys/vnode.h VOP_WRITE_POST`).

#![expect(
    missing_docs,
    reason = "constants copied from <sys/event.h> keep their names and meaning"
)]

use agentfs_core::event::{Change, CreatedBy, NodeRef, Place, RenameHow, ResizedBy, SizeChange};

use super::Role;
use super::vnode::{
    NOTE_ATTRIB, NOTE_DELETE, NOTE_EXTEND, NOTE_LINK, NOTE_RENAME, NOTE_WRITE, Posts,
};

pub const NOTE_OPEN: u32 = 0x80;
pub const NOTE_CLOSE: u32 = 0x100;
pub const NOTE_CLOSE_WRITE: u32 = 0x200;
pub const NOTE_READ: u32 = 0x400;

/// The notes of opening, reading and closing, which FsCore emits only if a sink wants them.
pub const ACTIVITY: u32 = NOTE_OPEN | NOTE_CLOSE | NOTE_CLOSE_WRITE | NOTE_READ;

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
            posts.post(Role::Parent, NOTE_WRITE | link(node));
        }
        Change::Removed { node, .. } => {
            posts.post(Role::Parent, NOTE_WRITE | link(node));
            posts.post(Role::Object, NOTE_DELETE);
        }
        Change::Written { size, .. } => {
            let grew = if *size == SizeChange::Grew {
                NOTE_EXTEND
            } else {
                0
            };
            posts.post(Role::Object, NOTE_WRITE | grew);
        }
        Change::Resized { by, .. } => match by {
            ResizedBy::Truncate | ResizedBy::OpenTruncate => posts.post(Role::Object, NOTE_ATTRIB),
            ResizedBy::Allocate => {}
        },
        Change::Attributes { .. } | Change::Xattr { .. } => posts.post(Role::Object, NOTE_ATTRIB),
        Change::Renamed {
            node,
            from,
            to,
            how,
        } => renamed(&mut posts, node, from, to, how),
        Change::Opened { .. } => posts.post(Role::Object, NOTE_OPEN),
        Change::Read { .. } => posts.post(Role::Object, NOTE_READ),
        Change::Closed { write: true, .. } => posts.post(Role::Object, NOTE_CLOSE_WRITE),
        Change::Closed { write: false, .. } => posts.post(Role::Object, NOTE_CLOSE),
        Change::BranchCreated { .. } | Change::SnapshotCreated { .. } => {}
    }
    posts
}

fn link(node: &NodeRef) -> u32 {
    if node.kind.is_dir() { NOTE_LINK } else { 0 }
}

/// Posts a rename as `vop_rename_post` does. FreeBSD cannot exchange, so each half is posted as a
/// rename to a free name.
fn renamed(posts: &mut Posts, node: &NodeRef, from: &Place, to: &Place, how: &RenameHow) {
    let target = match how {
        RenameHow::Replaced(target) => Some(target),
        RenameHow::Free | RenameHow::ExchangeFirst(_) | RenameHow::ExchangeSecond(_) => None,
    };
    let lost_dir = target.map_or(0, link);
    if from.parent == to.parent {
        posts.post(Role::Parent, NOTE_WRITE | lost_dir);
        posts.post(Role::NewParent, NOTE_WRITE | lost_dir);
    } else {
        let both = NOTE_WRITE | NOTE_EXTEND;
        posts.post(Role::Parent, both | link(node));
        posts.post(Role::NewParent, both | (link(node) & !lost_dir));
    }
    posts.post(Role::Object, NOTE_RENAME);
    if target.is_some() {
        posts.post(Role::Replaced, NOTE_DELETE);
    }
}
