//! The other side of the races: the same operations as system calls on a tmpfs.

use std::fs::{create_dir, remove_dir_all};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{self, AtFlags, CWD, Dir, Mode, OFlags};

/// A directory on tmpfs, removed at the end.
#[derive(Debug)]
pub(super) struct Tmpfs {
    path: String,
    dir: OwnedFd,
}

impl Tmpfs {
    /// Makes the directory in /dev/shm, which every Linux has as a tmpfs.
    pub(super) fn new() -> io::Result<Self> {
        let path = format!("/dev/shm/agentfs-bench-{}", std::process::id());
        create_dir(&path)?;
        let dir = fs::openat(CWD, path.as_str(), OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self { path, dir })
    }

    fn open_with(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(fs::openat(
            &self.dir,
            name,
            flags,
            Mode::from_raw_mode(0o644),
        )?)
    }

    pub(super) fn create(&self, name: &str) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(self.open_with(name, flags)?);
        Ok(())
    }

    pub(super) fn open(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        self.open_with(name, flags)
    }

    pub(super) fn open_to_append(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
        self.open_with(name, flags)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(fs::renameat(&self.dir, from, &self.dir, to)?)
    }

    pub(super) fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(fs::unlinkat(&self.dir, name, AtFlags::empty())?)
    }

    pub(super) fn stat(&self, name: &str) -> io::Result<i64> {
        Ok(fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_size)
    }

    /// Returns how many entries there are.
    pub(super) fn readdir(&self) -> io::Result<usize> {
        let mut count = 0;
        for entry in Dir::read_from(self.dir.as_fd())? {
            let entry = entry?;
            count += usize::from(entry.file_name().to_bytes().first() != Some(&b'.'));
        }
        Ok(count)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Nothing more can be done about a directory that does not go.
        let _removed = remove_dir_all(&self.path);
    }
}
