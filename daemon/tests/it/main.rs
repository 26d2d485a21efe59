//! Behaviour of the daemon and of the `agentfs` program.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod changes;
mod files;
mod hostile;
mod killed;
mod lifecycle;
mod registering;
mod sessions;
mod subscriber;
mod support;
mod synth_fsevents;
mod synth_inotify;
mod synth_vnode;
mod watching;
