//! Checks the `agentfs` program and the daemon that it starts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod branching;
#[cfg(target_os = "linux")]
mod deep;
#[cfg(target_os = "linux")]
mod echo;
mod hostile;
#[cfg(target_os = "linux")]
mod kept_mounts;
mod killed;
#[cfg(target_os = "linux")]
mod kills_under_mounts;
#[cfg(target_os = "linux")]
mod late;
mod lifecycle;
mod limits;
mod manual;
#[cfg(target_os = "linux")]
mod mounting;
mod random_kills;
mod showing;
mod stored;
mod subscriber;
mod subscription;
#[cfg(target_os = "linux")]
mod unwatched;
mod watching;
