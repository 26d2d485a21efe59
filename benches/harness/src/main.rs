//! The burst harness: what a change costs on this machine, beside the kernel's inotify.
//!
//! Everything is measured between processes, as programs meet it: a daemon with a branch on a real
//! mount here, and watchers in processes of their own, with the preloaded library, with the
//! user-space kqueue, as native subscribers, and, for comparison, with the kernel alone on a tmpfs.
//! Cases that are compared run in turns.

#[cfg(target_os = "linux")]
mod cli;

#[cfg(target_os = "linux")]
mod burst;
#[cfg(target_os = "linux")]
mod latency;
#[cfg(target_os = "linux")]
mod model;
#[cfg(target_os = "linux")]
mod program;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod scale;
#[cfg(target_os = "linux")]
mod stage;
#[cfg(target_os = "linux")]
mod usage;
#[cfg(target_os = "linux")]
mod watcher;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    cli::run()
}

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), &'static str> {
    Err("the harness compares with the kernel's inotify, which only Linux has")
}
