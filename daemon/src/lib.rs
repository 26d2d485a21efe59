//! **actor** -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook
//!
//! The control server: connections in, answers out, one thread.
//!
//! It waits for all connections at once and answers in turns, a bounded number of frames each, so
//! that a session that floods, stalls or stops costs the others no more than its turn. What a
//! session had is given back when its connection ends, however it ends.

mod answer;
mod apply;
mod branches;
mod broadcast;
mod claim;
mod counters;
mod daemon;
mod differences;
#[cfg_attr(not(target_os = "linux"), path = "echo_elsewhere.rs")]
mod echo;
mod echo_mode;
mod event_loop;
mod exporter;
mod files;
#[cfg_attr(not(target_os = "linux"), path = "filesystem_elsewhere.rs")]
pub mod filesystem;
mod holds;
pub mod inotify_limit;
mod jobs;
mod limits;
mod link;
mod listener;
#[cfg(target_os = "linux")]
pub mod listeners;
mod lower;
#[cfg_attr(not(target_os = "linux"), path = "mounting_elsewhere.rs")]
mod mounting;
mod mounts;
mod open_session;
mod peer;
#[cfg_attr(not(target_os = "linux"), path = "presence_elsewhere.rs")]
mod presence;
mod project;
mod refills;
mod refusal;
mod registrations;
mod retired;
mod services;
mod session;
mod stops;
mod unused;
mod watched;
mod watches;

pub use self::daemon::{Companion, Config, Daemon, StartError, Stopper};
pub use self::echo_mode::EchoMode;
pub use self::exporter::SAVING;
pub use self::limits::Limits;
pub use self::listener::ListenError;
pub use self::mounts::{Mount, MountTable};
