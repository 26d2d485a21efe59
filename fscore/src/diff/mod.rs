//! What differs between two versions of a branch, and what is done with it: listing it, telling it as
//! events, going back, and bringing it to the host.

pub(crate) mod apply;
pub(crate) mod frozen;
pub(crate) mod path_changes;
mod restore;
pub(crate) mod steps;
mod synthetic_events;
mod topo_sort;
