//! **actor** -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook
//!
//! The control server and the `agentfs` program.
//!
//! [`server`] takes connections, carries out what they ask with FsCore, the engine and mounts, and
//! gives back what they had. [`cli`] is the program.

pub mod cli;
mod export;
pub mod heap;
mod inotify_limit;
#[cfg(target_os = "linux")]
mod listeners;
pub mod server;
mod shell;
mod shim;
mod utc;
