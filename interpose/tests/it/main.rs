//! The hooks against real and user-space kernels and a daemon made of a ring.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test, a failed step ends the test")]

mod kqueue;
