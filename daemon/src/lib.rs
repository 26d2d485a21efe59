//! **actor** -> FsCore operation -> Event -> Router -> Synthesizer -> Ring -> Doorbell -> Hook
//!
//! The control server, for the `agentfs` program and for programs that embed a daemon: connections
//! in, replies out, one thread.
//!
//! The thread waits for all connections at once and answers them in turns, a bounded number of
//! frames each, so that a session that floods, stalls or stops costs the others no more than its
//! turn. What a session had is given back when its connection ends, however it ends.
//!
//! # The folders
//!
//! A request comes in from above and goes down. Each folder imports only those below it, and no two
//! files import each other:
//!
//! 1. `daemon`: starts and ends the thread.
//! 2. `event_loop`: what wakes the thread, and what keeps the daemon reachable.
//! 3. `session`: one connected process, its frames and its turns.
//! 4. `requests`: what each request does.
//! 5. `shared`: what the requests of all sessions share.
//! 6. `mounts`: the mounts of branches, and the echo of changes on them.
//! 7. `lower`: what the host changes in the directory below the branches.
//! 8. `base`: the types that every folder names.

mod base;
mod daemon;
mod event_loop;
mod lower;
mod mounts;
mod requests;
mod session;
mod shared;

pub use self::base::config::{Companion, Config, KeptMounts};
pub use self::base::echo_mode::EchoMode;
pub use self::base::session_limits::SessionLimits;
pub use self::base::start_error::{ListenError, StartError};
pub use self::daemon::{Daemon, Stopper};
pub use self::lower::{filesystem, inotify_limit};
#[cfg(target_os = "linux")]
pub use self::mounts::listeners;
pub use self::mounts::table::{Mount, MountTable};
pub use self::shared::branches::is_base_name;
pub use self::shared::exporter::SAVING;
