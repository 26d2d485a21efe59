//! A file of the host, or in its memory.

use std::io::IoSlice;
use std::ops::Range;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::retry_on_intr;

use super::host_directory::sync_bytes;
use super::{DiskFile, platform};
use crate::model::errno::Result;

/// How many bytes are copied at a time where the kernel cannot copy by itself.
const COPY_STEP: usize = 1 << 18;

#[derive(Debug)]
pub(crate) struct HostFile {
    fd: OwnedFd,
}

impl HostFile {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for HostFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl DiskFile for HostFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        read_full(&self.fd, buffer, at)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> Result<()> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut done = loop {
            match rustix::io::pwritev(&self.fd, parts, at) {
                Ok(written) => break written,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        if done == total {
            return Ok(());
        }
        // A signal or the end of the disk has cut the call short.
        let mut skip = done;
        for part in parts {
            let rest = part.get(skip..).unwrap_or(&[]);
            skip = skip.saturating_sub(part.len());
            write_all(&self.fd, rest, at + done as u64)?;
            done += rest.len();
        }
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        Ok(retry_on_intr(|| platform::punch(&self.fd, range.clone()))?)
    }

    fn copy_from(&self, host: BorrowedFd<'_>, from: Range<u64>, at: u64) -> Result<u64> {
        let mut done = 0;
        let mut buffer = Vec::new();
        while from.start + done < from.end {
            let left = usize::try_from(from.end - from.start - done).unwrap_or(usize::MAX);
            let (source, target) = (from.start + done, at + done);
            if buffer.is_empty() {
                match platform::copy_range(host, source, &self.fd, target, left) {
                    Ok(0) => break,
                    Ok(copied) => {
                        done += copied as u64;
                        continue;
                    }
                    Err(rustix::io::Errno::INTR) => continue,
                    // Not between these two filesystems, or not from this one.
                    Err(_) => buffer.resize(COPY_STEP.min(left), 0),
                }
            }
            let step = buffer.len().min(left);
            let read = read_full(host, &mut buffer[..step], source)?;
            if read == 0 {
                break;
            }
            write_all(&self.fd, &buffer[..read], target)?;
            done += read as u64;
        }
        Ok(done)
    }

    fn sync(&self) -> Result<()> {
        sync_bytes(&self.fd)
    }
}

/// Reads until the buffer is full or the file ends; returns the number of bytes.
pub(crate) fn read_full(fd: impl AsFd, buffer: &mut [u8], at: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(&fd, &mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done)
}

/// Writes all of the bytes at an offset.
pub(crate) fn write_all(fd: &OwnedFd, mut part: &[u8], mut at: u64) -> Result<()> {
    while !part.is_empty() {
        match rustix::io::pwrite(fd, part, at) {
            Ok(written) => {
                part = &part[written..];
                at += written as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
