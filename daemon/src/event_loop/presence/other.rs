//! What makes the daemon reachable is not watched here: who removes its socket has to end it by a
//! signal, which exports what its branches hold.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use super::Loss;
use crate::base::config::Companion;

/// Hears nothing.
#[derive(Debug)]
pub(crate) struct Presence(OwnedFd, Option<Companion>);

impl Presence {
    /// Watches nothing.
    pub(crate) fn start(_: &Path, companion: Option<Companion>) -> io::Result<Self> {
        let (reader, _) = io::pipe()?;
        Ok(Self(reader.into(), companion))
    }

    /// The file beside the socket.
    pub(crate) fn companion(&self) -> Option<Companion> {
        self.1
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Does nothing.
    pub(crate) fn watch(&mut self) {}

    /// Nothing.
    pub(crate) fn hear(&mut self) -> Loss {
        Loss::default()
    }
}
