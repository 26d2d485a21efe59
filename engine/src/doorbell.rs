//! What the daemon rings to wake the reader of a queue.

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
    /// An eventfd or a pipe.
    Ringer(Ringer),
    /// The file on which the program's own inotify instance has a hidden watch: a byte read from it is
    /// one `IN_ACCESS`, and further ones merge with it while it is unread. (Reading wakes the program
    /// sooner than writing by what a write takes before it announces itself: 4.8 microseconds, not 5.1.)
    #[cfg(target_os = "linux")]
    HiddenFile(File),
}

/// A doorbell's two ends: ours, and the one for the program.
pub(crate) type Ends = (Doorbell, OwnedFd);

impl Doorbell {
    /// A pipe: a kqueue can watch it.
    pub(crate) fn pipe() -> io::Result<Ends> {
        let (ringer, waiter) = agentfs_ring::doorbell::pipe()?;
        Ok((Self::Ringer(ringer), waiter.into()))
    }

    /// A private file of one byte and without a name. It has to be on a filesystem that announces
    /// reads: tmpfs does, a memfd does not.
    #[cfg(target_os = "linux")]
    pub(crate) fn hidden_file(directory: &Path) -> io::Result<Ends> {
        use rustix::fs::{Mode, OFlags, open};
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = open(directory, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::io::pwrite(&file, b"!", 0)?;
        let theirs = file.try_clone()?;
        Ok((Self::HiddenFile(file.into()), theirs))
    }

    /// Wakes the reader. A doorbell whose other end is closed is rung in vain; the session that it
    /// belongs to is about to end.
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
