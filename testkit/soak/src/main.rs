//! A long test: minutes of random load with faults, and an account of every change.
//!
//! `cargo xtask soak` runs it. A process with a daemon and a mount changes files at random
//! (`actor`), others listen (`listener`), and all of them write down what they did or heard
//! (`truth`). The soak (`run`) kills some of them, and compares what is written down (`check`).

#[cfg(target_os = "linux")]
mod actor;
#[cfg(target_os = "linux")]
mod check;
#[cfg(target_os = "linux")]
mod difference;
#[cfg(target_os = "linux")]
mod listener;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod truth;

/// The reason why a run failed.
#[cfg(target_os = "linux")]
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Failure> {
    run::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), &'static str> {
    Err("the soak needs inotify and mounts, which only Linux has")
}
