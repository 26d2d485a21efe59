//! What makes the daemon reachable: its socket, and the preloaded library beside it. Whoever removes
//! them, or the directory they are in, as systemd does when a user has logged out, does not end the
//! daemon, and what its branches hold would be out of reach. So it hears of that, and makes them
//! again.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod platform;

pub(crate) use self::platform::Presence;

/// What went away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Loss {
    /// The socket or its directory; or a directory is there again in which it may be made.
    pub(crate) socket: bool,
    /// The file beside the socket.
    pub(crate) companion: bool,
}

impl Loss {
    /// What one and the other took.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            socket: self.socket || other.socket,
            companion: self.companion || other.companion,
        }
    }
}
