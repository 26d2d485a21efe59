//! Doorbells where there is neither inotify nor eventfd: pipes.

use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use agentfs_ring::doorbell::{self, Ringer, Waiter};

use super::Ends;

/// The ringing end of a queue's doorbell: the writing end of a pipe.
#[derive(Debug)]
pub(crate) struct Doorbell(Ringer);

impl Doorbell {
    /// Makes a pipe, which a kqueue can watch.
    pub(crate) fn pipe() -> io::Result<Ends> {
        let (ringer, waiter) = doorbell::pipe()?;
        Ok((Self(ringer), waiter.into()))
    }

    /// Makes a pipe for an inotify queue, which no program here has.
    pub(crate) fn for_inotify(_directory: &Path) -> io::Result<Ends> {
        Self::pipe()
    }

    /// Wakes the reader. Ringing fails when the other end is closed, and that is ignored: the
    /// session is about to end.
    pub(crate) fn ring(&self) {
        drop(self.0.ring());
    }
}

/// Returns the milliseconds since this was first asked.
pub(crate) fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let since = START.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Makes the doorbell by which a program says that its full ring has room again.
pub(crate) fn refill_ends() -> io::Result<(Ringer, Waiter)> {
    doorbell::pipe()
}
