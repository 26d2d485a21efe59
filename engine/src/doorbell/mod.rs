//! What the engine rings to wake the reader of a queue.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod pipes;

use std::io;
use std::os::fd::OwnedFd;

use agentfs_ring::doorbell::Ringer;

#[cfg(target_os = "linux")]
pub(crate) use self::linux::{for_inotify, refill_ends};
#[cfg(not(target_os = "linux"))]
pub(crate) use self::pipes::{for_inotify, refill_ends};

#[cfg(target_os = "linux")]
use self::linux::HiddenFile;
#[cfg(not(target_os = "linux"))]
use self::pipes::HiddenFile;

/// The ringing end of a queue's doorbell.
#[derive(Debug)]
pub(crate) enum Doorbell {
    /// The writing end of an eventfd or a pipe.
    Ringer(Ringer),
    /// The file on which the program's own inotify instance has a hidden watch. There is none where
    /// there is no inotify.
    HiddenFile(HiddenFile),
}

/// The two ends of a doorbell: ours, and the one for the program.
pub(crate) type Ends = (Doorbell, OwnedFd);

impl Doorbell {
    /// Makes a pipe, which a kqueue can watch.
    pub(crate) fn pipe() -> io::Result<Ends> {
        let (ringer, waiter) = agentfs_ring::doorbell::pipe()?;
        Ok((Self::Ringer(ringer), waiter.into()))
    }

    /// Wakes the reader. Ringing fails when the other end is closed, and that is ignored: the
    /// session is about to end.
    pub(crate) fn ring(&self) {
        match self {
            Self::Ringer(ringer) => drop(ringer.ring()),
            Self::HiddenFile(file) => file.ring(),
        }
    }
}
