//! What makes the daemon reachable is not watched on this system: a user who removes its socket has to
//! end the daemon by a signal, and it then exports the changes of its branches.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use super::Loss;
use crate::base::config::Companion;

/// Watches nothing.
#[derive(Debug)]
pub(crate) struct Presence(OwnedFd, Option<Companion>);

impl Presence {
    /// Watches nothing.
    pub(crate) fn start(_: &Path, companion: Option<Companion>) -> io::Result<Self> {
        let (reader, _) = io::pipe()?;
        Ok(Self(reader.into(), companion))
    }

    /// Returns the file beside the socket.
    pub(crate) fn companion(&self) -> Option<Companion> {
        self.1
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Does nothing.
    pub(crate) fn watch(&mut self) {}

    /// Returns that nothing was removed.
    pub(crate) fn hear(&mut self) -> Loss {
        Loss::default()
    }
}
