//! What a native subscription says: the kind of the change, the full path, and the new path of a
//! rename. No API to imitate, so nothing is left out but activity, which is told to those who ask.

use agentfs_core::event::Change;

/// Whether a native watch hears a change at all.
#[must_use]
#[inline]
pub fn hears(change: &Change, activity: bool) -> bool {
    activity || !change.is_activity()
}
