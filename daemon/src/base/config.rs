//! What a daemon is started with.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use crate::base::echo_mode::EchoMode;
use crate::base::session_limits::SessionLimits;

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub socket: PathBuf,
    /// Whether a socket that systemd passed to this process is used instead.
    pub use_systemd_socket: bool,
    /// The directory below the branches; an empty tree without one.
    pub lower: Option<PathBuf>,
    /// The directory of the store in which the branches outlive the daemon; in memory without one.
    pub store: Option<PathBuf>,
    /// How many bytes the store may take on its disk, from now on; `Some(None)` for as many as the disk
    /// has, and `None` for what the store says.
    pub max_store: Option<Option<u64>>,
    /// Whether a damaged store is only read: what can be read of it is served, and nothing is changed.
    pub salvage: bool,
    /// How mounts are kept when the daemon is killed, so that the next one goes on with them; they answer
    /// `ENOTCONN` then without it. Needs a store, and Linux.
    pub keeping: Option<KeptMounts>,
    /// Whether nothing that happens outside shows in new branches.
    pub frozen: bool,
    /// Whether the directory below is watched, so that programs hear what the host changes in it.
    pub watch_lower: bool,
    /// On which mounts changes from outside are repeated for the kernel.
    pub echo: EchoMode,
    /// What one session may have.
    pub limits: SessionLimits,
    /// Whether the daemon ends when no program uses it and nothing would be lost with it.
    pub until_unused: bool,
    /// Whether the changes of its branches are exported to the user's state directory before the
    /// daemon ends. Otherwise they are lost.
    pub saves_changes: bool,
    /// A file that lies beside the socket, and that the daemon puts back when it is removed.
    pub companion: Option<Companion>,
}

/// How mounts are kept while no daemon is there.
#[derive(Clone, Debug)]
pub struct KeptMounts {
    /// A program that calls `agentfs_mount::keep` with the arguments that come after `arguments`.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<OsString>,
    /// The directory in which the mounts of this daemon are found by the next one. It is created for this
    /// user alone.
    pub directory: PathBuf,
    /// How long programs wait for the next daemon.
    pub patience: Duration,
    /// The command that starts the next daemon; empty if somebody else does.
    pub next_daemon: Vec<OsString>,
}

/// A file beside the socket without which programs cannot use the daemon: the preloaded library.
#[derive(Clone, Copy, Debug)]
pub struct Companion {
    /// Returns whether a file of this name is such a file, of any version.
    pub is_name: fn(&OsStr) -> bool,
    /// Puts the file back, unless it is there.
    pub restore: fn(),
}

impl Config {
    /// Describes a daemon over an empty tree that listens at `socket`.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            use_systemd_socket: false,
            lower: None,
            store: None,
            max_store: None,
            salvage: false,
            keeping: None,
            frozen: false,
            watch_lower: true,
            echo: EchoMode::Auto,
            limits: SessionLimits::default(),
            until_unused: false,
            saves_changes: false,
            companion: None,
        }
    }
}
