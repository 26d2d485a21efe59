//! Doorbells where there is neither inotify nor eventfd: pipes.

use std::io;
use std::path::Path;

use agentfs_ring::doorbell::{Ringer, Waiter, pipe};

use super::{Doorbell, Ends};

/// There is no such file.
#[derive(Debug)]
pub(crate) enum HiddenFile {}

impl HiddenFile {
    pub(super) fn ring(&self) {
        match *self {}
    }
}

/// Makes a pipe for an inotify queue, which no program here has.
pub(crate) fn for_inotify(_directory: &Path) -> io::Result<Ends> {
    Doorbell::pipe()
}

/// Makes the doorbell by which a program says that its full ring has room again.
pub(crate) fn refill_ends() -> io::Result<(Ringer, Waiter)> {
    pipe()
}
