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
    /// Whether branches hear what the host changes there.
    pub watch_lower: bool,
    /// Where the kernel tells what was not done on a mount.
    pub echo: EchoMode,
    /// What one session may have.
    pub limits: SessionLimits,
    /// Whether it ends when nobody uses it and nothing would be lost with it.
    pub until_unused: bool,
    /// Whether what its branches changed is exported to the user's state directory before it ends.
    /// Otherwise that is lost.
    pub saves_changes: bool,
    /// A file that lies beside the socket and is put back when somebody removes it.
    pub companion: Option<Companion>,
}

/// A file beside the socket without which programs cannot use the daemon: the preloaded library.
#[derive(Clone, Copy, Debug)]
pub struct Companion {
    /// Returns whether a file of this name is one, of whatever version.
    pub is_name: fn(&OsStr) -> bool,
    /// Puts the file back, unless it is there.
    pub restore: fn(),
}

impl Config {
    /// A daemon over an empty tree that listens at `socket`.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            use_systemd_socket: false,
            lower: None,
            watch_lower: true,
            echo: EchoMode::Auto,
            limits: SessionLimits::default(),
            until_unused: false,
            saves_changes: false,
            companion: None,
        }
    }
}
