//! Behaviour of the daemon and of the `agentfs` program.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod branching;
#[cfg(target_os = "linux")]
mod deep;
#[cfg(target_os = "linux")]
mod echo;
mod files;
mod hostile;
mod killed;
mod lifecycle;
mod locking;
#[cfg(target_os = "linux")]
mod lower;
mod manual;
#[cfg(target_os = "linux")]
mod mounting;
mod registering;
mod sessions;
mod showing;
mod subscriber;
mod subscription;
mod support;
mod turns;
#[cfg(target_os = "linux")]
mod unwatched;
mod waiting;
mod watching;
