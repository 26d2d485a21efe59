//! Tests the behaviour of the engine, on a filesystem and the programs' ends of its queues.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod changes;
mod coalescing;
mod data_flow;
mod ending;
mod fixture;
mod healing;
mod missed;
mod routing;
mod synth_fsevents;
mod synth_inotify;
mod synth_vnode;

use agentfs_engine::synth::inotify::ACTIVITY;
