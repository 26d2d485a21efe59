//! A directory of the host.

mod appended_file;
#[cfg(target_vendor = "apple")]
mod apple;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
mod other;
mod shared_file;

use std::io::IoSlice;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::retry_on_intr;

use self::appended_file::AppendedFile;
#[cfg(target_vendor = "apple")]
use self::apple as platform;
#[cfg(target_os = "linux")]
use self::linux as platform;
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
use self::other as platform;
use self::shared_file::SharedFile;
use super::DiskFile;
use super::directory::{Directory, NamedFile};
use super::host_file::HostFile;
use super::lock_file;
use crate::model::errno::{Errno, Result};

/// How many zeros are written at a time where the filesystem cannot reserve room.
const ZEROS: usize = 1 << 16;

const FLAGS: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Files of a store can be opened by its owner alone.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Returns a number that the running system has had since it started and no other start has, if the
/// platform knows one.
pub(crate) fn boot_id() -> Option<[u8; 16]> {
    parse_uuid(&platform::boot_id()?)
}

/// Reads 32 hexadecimal digits, between which there may be hyphens.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|digit| *digit != '-').collect();
    let is_uuid = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_uuid
        .then(|| u128::from_str_radix(&digits, 16).ok())
        .flatten()
        .map(u128::to_be_bytes)
}

/// Waits until the bytes and the length of a file survive a power cut.
pub(super) fn sync_bytes(fd: &OwnedFd) -> Result<()> {
    Ok(retry_on_intr(|| platform::sync(fd))?)
}

#[derive(Debug)]
pub(crate) struct HostDirectory {
    fd: OwnedFd,
}

impl HostDirectory {
    /// Opens a directory of the host.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd })
    }

    /// Returns whether its group or all users can create and remove names in it.
    pub(crate) fn is_writable_by_others(&self) -> Result<bool> {
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&self.fd)?.st_mode);
        Ok(mode.intersects(Mode::WGRP | Mode::WOTH))
    }

    fn open_with(&self, name: &str, flags: OFlags) -> Result<HostFile> {
        let fd = retry_on_intr(|| rustix::fs::openat(&self.fd, name, FLAGS | flags, MODE))?;
        Ok(HostFile::new(fd))
    }
}

impl Directory for HostDirectory {
    fn open(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        Ok(Arc::new(self.open_with(name, OFlags::empty())?))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        let flags = OFlags::CREATE | OFlags::EXCL;
        Ok(Arc::new(self.open_with(name, flags)?))
    }

    fn create_to_append(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        let flags = OFlags::CREATE | OFlags::EXCL;
        Ok(Arc::new(AppendedFile::new(self.open_with(name, flags)?)))
    }

    fn list(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            match entry?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    fn remove(&self, name: &str) -> Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    fn sync_names(&self) -> Result<()> {
        Ok(retry_on_intr(|| platform::sync_names(&self.fd))?)
    }

    fn lock(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        let locked = lock_file::lock_in(self.fd.as_fd(), Path::new(name))?;
        let file = locked.ok_or(Errno::EAGAIN)?;
        Ok(Arc::new(HostFile::new(file)))
    }

    fn lock_after(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        let file = retry_on_intr(|| rustix::fs::openat(&self.fd, name, FLAGS, MODE))?;
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        match retry_on_intr(|| rustix::fs::flock(&file, exclusive)) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) if lock_file::is_left_behind(&file)? => {
                // A write that a thread of that process has under way keeps the inode locked until it is done.
                let len = rustix::fs::fstat(&file)?.st_size;
                retry_on_intr(|| rustix::fs::ftruncate(&file, len.cast_unsigned()))?;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Errno::EAGAIN),
            Err(errno) => return Err(errno.into()),
        }
        Ok(Arc::new(SharedFile::new(HostFile::new(file))?))
    }
}

impl NamedFile for HostFile {
    fn len(&self) -> Result<u64> {
        let size = rustix::fs::fstat(self)?.st_size;
        u64::try_from(size).map_err(|_| Errno::EIO)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        Ok(retry_on_intr(|| rustix::fs::ftruncate(self, len))?)
    }

    fn allocate(&self, range: Range<u64>) -> Result<()> {
        match retry_on_intr(|| platform::allocate(self.as_fd(), range.clone())) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                write_zeros(self, range)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Takes room by using it, where the filesystem cannot reserve any.
fn write_zeros(file: &HostFile, range: Range<u64>) -> Result<()> {
    let zeros = vec![0; ZEROS];
    let mut at = range.start;
    while at < range.end {
        let step = usize::try_from(range.end - at).map_or(ZEROS, |left| left.min(ZEROS));
        file.write_at(&[IoSlice::new(&zeros[..step])], at)?;
        at += step as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, HostDirectory) {
        let path = tempfile::tempdir().unwrap();
        let directory = HostDirectory::open(path.path()).unwrap();
        (path, directory)
    }

    #[test]
    fn names_are_listed_renamed_and_removed() {
        let (_path, directory) = directory();
        for name in ["b", "a", "c"] {
            directory.create(name).unwrap();
        }
        assert_eq!(directory.create("a").unwrap_err(), Errno::EEXIST);
        assert_eq!(directory.open("d").unwrap_err(), Errno::ENOENT);
        directory.rename("b", "a").unwrap();
        directory.remove("c").unwrap();
        directory.sync_names().unwrap();
        assert_eq!(directory.list().unwrap(), ["a"]);
        assert_eq!(directory.list().unwrap(), ["a"], "listed a second time");
    }

    #[test]
    fn reserved_room_reads_as_zeros_until_it_is_written() {
        let (_path, directory) = directory();
        let file = directory.create("a").unwrap();
        file.write_at(&[IoSlice::new(b"ab"), IoSlice::new(b"c")], 0)
            .unwrap();
        file.allocate(3..100_000).unwrap();
        assert_eq!(file.len().unwrap(), 100_000);
        file.sync().unwrap();
        let mut bytes = [1; 6];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 6);
        assert_eq!(&bytes, b"abc\0\0\0");
        file.set_len(2).unwrap();
        assert_eq!(directory.open("a").unwrap().len().unwrap(), 2);
    }

    #[test]
    fn zeros_are_written_where_room_cannot_be_reserved() {
        let (_path, directory) = directory();
        let file = directory.open_with("a", OFlags::CREATE).unwrap();
        let end = 3 * ZEROS as u64 + 7;
        write_zeros(&file, 0..end).unwrap();
        assert_eq!(file.len().unwrap(), end);
    }

    #[test]
    fn lock_ends_with_its_file() {
        let (path, directory) = directory();
        let lock = directory.lock("lock").unwrap();
        let other = HostDirectory::open(path.path()).unwrap();
        assert_eq!(other.lock("lock").unwrap_err(), Errno::EAGAIN);
        drop(lock);
        other.lock("lock").unwrap();
    }

    #[test]
    fn boot_has_the_same_number_at_every_look() {
        let text = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\n";
        let number = parse_uuid(text).unwrap();
        assert_eq!(&number[..4], &[0x0f, 0x1e, 0x2d, 0x3c]);
        for text in ["", "0f1e", "+f1e2d3c4b5a69788796a5b4c3d2e1f0", "x"] {
            assert_eq!(parse_uuid(text), None, "{text}");
        }
        assert_eq!(boot_id(), boot_id());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn boot_of_linux_has_a_number() {
        assert_ne!(boot_id().unwrap_or_default(), [0; 16]);
    }
}
