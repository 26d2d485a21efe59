//! The harness as one runs it.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "what is left out is said")]

mod burst;
mod page;
mod support;
