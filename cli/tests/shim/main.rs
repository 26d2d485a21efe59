//! Tests what unmodified programs hear on a mounted branch, under the preloaded library.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alike;
mod heard;
mod kqueue;
mod many;
mod mounted;
mod programs;
mod restart;
mod sequences;
