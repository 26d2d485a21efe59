//! Tests the behaviour of the filesystem and the events that it emits.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acl;
mod apply;
mod apply_merge;
mod apply_race;
mod apply_random;
mod apply_sparse;
mod basics;
mod behind_kernel;
mod branches;
mod bus;
mod deep;
mod diff;
mod events;
mod freezing;
mod frozen;
mod held;
mod kept;
mod late;
mod limits;
mod many;
mod overlay;
mod place;
mod ranges;
mod replay;
mod seal;
mod served;
mod store;
mod support;
#[cfg(target_os = "linux")]
mod unopened;
