//! Tests the user-space kqueue against the rules of macOS.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "in a test, a failed step ends the test")]

mod calls;
mod descriptors;
mod filters;
mod flags;
mod support;
