//! Tests the behaviour of a mounted branch, as the programs in it see it.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "what is left out is said")]

mod basics;
mod coherence;
mod echo;
mod echo_inside;
mod fsx;
mod isolation;
mod keeper;
mod other_namespace;
mod posix;
mod programs;
mod remounting;
mod replaced;
mod support;
mod takeover;
mod unannounced;
mod users;
