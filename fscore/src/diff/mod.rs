//! What differs between two versions of a branch, and what is done with the difference: listing it,
//! emitting it as events, restoring a snapshot, and applying a branch to the host.

pub(crate) mod apply;
pub(crate) mod frozen;
mod opening;
pub(crate) mod path_changes;
mod restore;
pub(crate) mod steps;
mod synthetic_events;
mod topo_sort;
