//! Doorbells by what only Linux has: files that inotify watches, and eventfds.

use std::fs::File;
use std::io;
use std::path::Path;

use agentfs_ring::doorbell::{self, Ringer, Waiter};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::Ends;

/// The ringing end of a queue's doorbell.
#[derive(Debug)]
pub(crate) enum Doorbell {
    /// The writing end of a pipe.
    Pipe(Ringer),
    /// The file on which the program's own inotify instance has a hidden watch. Reading a byte of
    /// it is one `IN_ACCESS`, and further ones merge with the first while the program has not read
    /// it. (Reading wakes the program after 4.8 microseconds, writing after 5.1: a write does more
    /// before it notifies.)
    HiddenFile(File),
}

impl Doorbell {
    /// Makes a pipe, which a kqueue can watch.
    pub(crate) fn pipe() -> io::Result<Ends> {
        let (ringer, waiter) = doorbell::pipe()?;
        Ok((Self::Pipe(ringer), waiter.into()))
    }

    /// Makes the doorbell of an inotify queue: a private file of one byte and without a name. The
    /// directory has to be on a filesystem that notifies of reads: tmpfs does, a memfd does not.
    pub(crate) fn for_inotify(directory: &Path) -> io::Result<Ends> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = open(directory, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::io::pwrite(&file, b"!", 0)?;
        let theirs = file.try_clone()?;
        Ok((Self::HiddenFile(file.into()), theirs))
    }

    /// Wakes the reader. Ringing fails when the other end is closed, and that is ignored: the
    /// session is about to end.
    pub(crate) fn ring(&self) {
        match self {
            Self::Pipe(ringer) => drop(ringer.ring()),
            Self::HiddenFile(file) => {
                while rustix::io::pread(file, &mut [0_u8; 1], 0) == Err(Errno::INTR) {}
            }
        }
    }
}

/// Returns the milliseconds since the machine started, in steps of a few.
#[inline]
pub(crate) fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
}

/// Makes the doorbell by which a program says that its full ring has room again.
pub(crate) fn refill_ends() -> io::Result<(Ringer, Waiter)> {
    doorbell::eventfd()
}
