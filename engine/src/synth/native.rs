//! What a native subscription says: the kind of the change, the full path, and the new path of a
//! rename. It imitates no API, so nothing is left out but activity, which only watches that ask for
//! it hear.

use agentfs_core::event::Change;

/// Returns whether a native watch hears a change. `activity` says whether it asked for opening,
/// reading and closing.
#[must_use]
#[inline]
pub fn hears(change: &Change, activity: bool) -> bool {
    activity || !change.is_activity()
}
