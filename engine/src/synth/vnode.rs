//! What `EVFILT_VNODE` has in common on XNU and FreeBSD.

#![expect(
    missing_docs,
    reason = "constants copied from <sys/event.h> keep their names and meaning"
)]

use super::{Role, Short};

pub const NOTE_DELETE: u32 = 0x1;
pub const NOTE_WRITE: u32 = 0x2;
pub const NOTE_EXTEND: u32 = 0x4;
pub const NOTE_ATTRIB: u32 = 0x8;
pub const NOTE_LINK: u32 = 0x10;
pub const NOTE_RENAME: u32 = 0x20;
pub const NOTE_REVOKE: u32 = 0x40;

/// One post to the knotes of one node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Post {
    /// The node whose knotes get it.
    pub role: Role,
    /// The hint: `NOTE_*` bits that are posted together.
    pub hint: u32,
}

/// The posts of one change, in order.
pub type Posts = Short<Post, 4>;

/// Returns what a knote with this interest gets of a post: the whole hint, with bits that it did
/// not ask for, when any bit matches (`filt_vnode_common`, `filt_vfsvnode`), and 0 when none does.
#[must_use]
#[inline]
pub fn hear(interest: u32, post: &Post) -> u32 {
    if interest & post.hint != 0 {
        post.hint
    } else {
        0
    }
}

impl Posts {
    pub(super) fn post(&mut self, role: Role, hint: u32) {
        self.push(Post { role, hint });
    }
}
