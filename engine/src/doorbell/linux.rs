//! Doorbells by what only Linux has: files that inotify watches, and eventfds.

use std::fs::File;
use std::io;
use std::path::Path;

use agentfs_ring::doorbell::{Ringer, Waiter, eventfd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::{Doorbell, Ends};

/// A file on which the program's own inotify instance has a hidden watch. Reading a byte of it is one
/// `IN_ACCESS`, and further ones merge with the first while the program has not read it. (Reading
/// wakes the program after 4.8 microseconds, writing after 5.1: a write does more before it notifies.)
#[derive(Debug)]
pub(crate) struct HiddenFile(File);

impl HiddenFile {
    pub(super) fn ring(&self) {
        while rustix::io::pread(&self.0, &mut [0_u8; 1], 0) == Err(Errno::INTR) {}
    }
}

/// Makes the doorbell of an inotify queue: a private file of one byte and without a name. The
/// directory has to be on a filesystem that notifies of reads: tmpfs does, a memfd does not.
pub(crate) fn for_inotify(directory: &Path) -> io::Result<Ends> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = open(directory, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::io::pwrite(&file, b"!", 0)?;
    let theirs = file.try_clone()?;
    Ok((Doorbell::HiddenFile(HiddenFile(file.into())), theirs))
}

/// Makes the doorbell by which a program says that its full ring has room again.
pub(crate) fn refill_ends() -> io::Result<(Ringer, Waiter)> {
    eventfd()
}
