//! Systems without memfd_create(2), copy_file_range(2) or holes that can be punched.

use std::ops::Range;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

use super::host_file::HostFile;
use crate::model::errno::{Errno, Result};

/// Creates a file in the temporary directory and removes its name, so that it is gone with its last
/// descriptor.
pub(crate) fn anonymous() -> Result<HostFile> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    for attempt in 0..1000 {
        let name = format!("agentfs-content-{}-{attempt}", std::process::id());
        let path = std::env::temp_dir().join(name);
        match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => {
                rustix::fs::unlink(&path)?;
                return Ok(HostFile::new(fd));
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::EEXIST)
}

/// Leaves the blocks of a range where they are: they are used again.
pub(super) fn punch(_: &OwnedFd, _: Range<u64>) -> rustix::io::Result<()> {
    Ok(())
}

/// Copies nothing: the caller reads and writes.
pub(super) fn copy_range(
    _: BorrowedFd<'_>,
    _: u64,
    _: &OwnedFd,
    _: u64,
    _: usize,
) -> rustix::io::Result<usize> {
    Err(rustix::io::Errno::NOSYS)
}

/// Returns random bytes: random(4).
pub(crate) fn random_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    let source = rustix::fs::open(
        "/dev/urandom",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let read = rustix::io::read(&source, &mut id)?;
    if read == id.len() {
        Ok(id)
    } else {
        Err(Errno::EIO)
    }
}
