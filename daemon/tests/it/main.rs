//! Tests the behaviour of a daemon in the process of the test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod locking;
#[cfg(target_os = "linux")]
mod lower;
mod registering;
mod sessions;
mod support;
mod turns;
mod waiting;
