//! What makes the daemon reachable: its socket, and the preloaded library beside it. When they or
//! their directory are removed, as systemd does when a user has logged out, the daemon does not end,
//! but the changes in its branches would be out of reach. So the daemon watches these files, and makes
//! them again.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod platform;

pub(crate) use self::platform::Presence;

/// What was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Loss {
    /// The socket or its directory; or a directory exists again in which the socket can be made.
    pub(crate) socket: bool,
    /// The file beside the socket.
    pub(crate) companion: bool,
}

impl Loss {
    /// Returns what either of two losses took.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            socket: self.socket || other.socket,
            companion: self.companion || other.companion,
        }
    }
}
