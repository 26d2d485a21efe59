//! Behaviour of the daemon and of the `agentfs` program.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod branching;
mod changes;
mod coalescing;
#[cfg(target_os = "linux")]
mod deep;
#[cfg(target_os = "linux")]
mod echo;
mod ending;
mod files;
mod healing;
mod hostile;
mod killed;
mod lifecycle;
mod locking;
#[cfg(target_os = "linux")]
mod lower;
mod manual;
#[cfg(target_os = "linux")]
mod mounting;
mod registering;
mod rig;
mod routing;
mod sessions;
mod showing;
mod subscriber;
mod support;
mod synth_fsevents;
mod synth_inotify;
mod synth_vnode;
mod turns;
mod waiting;
mod watching;

use agentfs_daemon::synth::inotify::ACTIVITY;
