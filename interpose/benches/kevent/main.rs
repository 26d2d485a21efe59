//! What a hooked kevent() costs, beside the call without the hook.
//!
//! ```text
//! cargo bench -p agentfs-interpose-shim --bench kevent
//! ```
//!
//! The kernel is the user-space kqueue of the tests, so only the ratios say something. The numbers of a
//! Mac are smaller in both columns.
#![cfg_attr(
    target_os = "linux",
    expect(
        clippy::print_stdout,
        clippy::unwrap_used,
        reason = "a program that prints what it found, or fails"
    )
)]

#[cfg(target_os = "linux")]
mod measure;

#[cfg(target_os = "linux")]
fn main() {
    measure::run();
}

/// The kqueue of the tests is one for Linux.
#[cfg(not(target_os = "linux"))]
fn main() {}
