//! What unmodified programs hear on a mounted branch, under the preloaded library.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alike;
mod heard;
mod kqueue;
mod many;
mod mounted;
mod programs;
mod restart;
#[path = "../../../engine/tests/oracle/rng.rs"]
#[expect(dead_code, reason = "the oracle uses all of it")]
mod rng;
mod sequences;
#[path = "../../../testkit/src/shim.rs"]
mod shim;
#[path = "../../../testkit/src/shrink.rs"]
mod shrink;
