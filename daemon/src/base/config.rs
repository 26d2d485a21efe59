//! What a daemon is started with.

use std::ffi::OsStr;
use std::path::PathBuf;

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
