//! macOS: `F_FULLFSYNC`, without which a disk keeps what it was given in a cache that a power cut
//! empties, and the boot's number from sysctl(8).

use std::ops::Range;
use std::process::{Command, Stdio};

use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::{Errno, Result};

/// Reserves nothing: `F_PREALLOCATE` counts from the end of what was reserved before.
pub(super) fn allocate(_: BorrowedFd<'_>, _: Range<u64>) -> Result<()> {
    Err(Errno::OPNOTSUPP)
}

/// Returns that nothing is mapped here.
pub(super) fn writes_in_place(_: impl AsFd) -> bool {
    false
}

/// Writes the file through to the medium; where the filesystem cannot, to the disk.
pub(super) fn sync(fd: impl AsFd) -> Result<()> {
    rustix::fs::fcntl_fullfsync(&fd).or_else(|_| rustix::fs::fsync(&fd))
}

pub(super) fn sync_names(fd: impl AsFd) -> Result<()> {
    sync(fd)
}

/// Asks the program, because the system call cannot be made without unsafe code.
pub(super) fn boot_id() -> Option<String> {
    let mut sysctl = Command::new("/usr/sbin/sysctl");
    sysctl.args(["-n", "kern.bootsessionuuid"]);
    let output = sysctl.stdin(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()
}
