//! **actor** -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook
//!
//! The control server: connections in, answers out, one thread.
//!
//! It waits for all connections at once and answers in turns, a bounded number of frames each, so
//! that a session that floods, stalls or stops costs the others no more than its turn. What a
//! session had is given back when its connection ends, however it ends.

mod base;
mod daemon;
mod event_loop;
mod lower;
mod mounts;
mod requests;
mod session;
mod shared;

pub use self::base::config::{Companion, Config};
pub use self::base::echo_mode::EchoMode;
pub use self::base::session_limits::SessionLimits;
pub use self::base::start_error::{ListenError, StartError};
pub use self::daemon::{Daemon, Stopper};
pub use self::lower::{filesystem, inotify_limit};
#[cfg(target_os = "linux")]
pub use self::mounts::listeners;
pub use self::mounts::table::{Mount, MountTable};
pub use self::shared::exporter::SAVING;
