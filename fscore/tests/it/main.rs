//! Behaviour of the filesystem and of the events it tells.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apply;
mod basics;
mod behind_kernel;
mod branches;
mod bus;
mod deep;
mod diff;
mod events;
mod limits;
mod overlay;
mod ranges;
mod replay;
mod support;
