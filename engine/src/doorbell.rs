//! What the engine rings to wake the reader of a queue.

#[cfg(target_os = "linux")]
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
#[cfg(target_os = "linux")]
use std::path::Path;

use agentfs_ring::doorbell::Ringer;
#[cfg(target_os = "linux")]
use rustix::io::Errno;

/// The ringing end of a queue's doorbell.
#[derive(Debug)]
pub(crate) enum Doorbell {
    /// The writing end of an eventfd or a pipe.
    Ringer(Ringer),
    /// The file on which the program's own inotify instance has a hidden watch. Reading a byte of
    /// it is one `IN_ACCESS`, and further ones merge with the first while the program has not read
    /// it. (Reading wakes the program after 4.8 microseconds, writing after 5.1: a write does more
    /// before it notifies.)
    #[cfg(target_os = "linux")]
    HiddenFile(File),
}

/// The two ends of a doorbell: ours, and the one for the program.
pub(crate) type Ends = (Doorbell, OwnedFd);

impl Doorbell {
    /// Makes a pipe, which a kqueue can watch.
    pub(crate) fn pipe() -> io::Result<Ends> {
        let (ringer, waiter) = agentfs_ring::doorbell::pipe()?;
        Ok((Self::Ringer(ringer), waiter.into()))
    }

    /// Makes a private file of one byte and without a name. The directory has to be on a filesystem
    /// that notifies of reads: tmpfs does, a memfd does not.
    #[cfg(target_os = "linux")]
    pub(crate) fn hidden_file(directory: &Path) -> io::Result<Ends> {
        use rustix::fs::{Mode, OFlags, open};
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
            Self::Ringer(ringer) => drop(ringer.ring()),
            #[cfg(target_os = "linux")]
            Self::HiddenFile(file) => {
                while rustix::io::pread(file, &mut [0_u8; 1], 0) == Err(Errno::INTR) {}
            }
        }
    }
}
