//! Behaviour of the filesystem and of the events it tells.

mod apply;
mod basics;
mod behind_kernel;
mod branches;
mod bus;
mod diff;
mod events;
mod limits;
mod overlay;
mod support;
