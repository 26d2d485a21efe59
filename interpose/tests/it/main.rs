//! Tests the behaviour of agentfs-interpose-shim.
//!
//! `kqueue` runs the engine in this process. The other modules run unmodified programs under the preloaded
//! library, against a daemon that does what a test says.
//! The library is built with the feature `kqueue-on-linux`: see the dev-dependencies.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bell;
mod calls;
mod delivery;
mod kqueue;
mod processes;
mod programs_of_others;
mod registration;
mod restart;
