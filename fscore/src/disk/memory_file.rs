//! A file in the memory of the process, in which a filesystem without a store keeps its content.
//!
//! The memory is anonymous and not that of a tmpfs, because a system call for each read and write
//! would take several times as long as the copy.

use std::fmt;
use std::io::IoSlice;
use std::ops::Range;

use memmap2::MmapMut;
use rustix::fd::BorrowedFd;

use super::host_file::read_full;
use super::{DiskFile, mapping};
use crate::model::errno::{Errno, Result};
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};

/// How many bytes are mapped, and locked, at a time.
const CHUNK: usize = 4 << 20;

/// How many bytes the kernel gives at a time.
const STEP: usize = 64 << 10;

/// How many bytes of a file of the host are copied at a time.
const COPY_STEP: usize = 1 << 18;

#[derive(Default)]
pub(crate) struct MemoryFile {
    chunks: RwLock<Vec<RwLock<Chunk>>>,
    /// Where the bytes end that were ever written. Relaxed is enough: whoever reads bytes has learned
    /// of them from the writer, under a lock.
    end: AtomicU64,
}

/// A part of the file.
struct Chunk {
    memory: MmapMut,
    /// Behind this, the kernel has given no page yet.
    used: usize,
}

impl Chunk {
    fn write(&mut self, range: Range<usize>, part: &[u8]) {
        if range.end > self.used {
            let end = range.end.next_multiple_of(STEP).min(CHUNK);
            // What lies before the range is kept for files that grow.
            mapping::populate(&self.memory, range.start.max(self.used)..end);
            self.used = end;
        }
        self.memory[range].copy_from_slice(part);
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// Returns the parts of a range that lie in one chunk each: the chunk, and the range in it.
fn cut(at: u64, len: usize) -> impl Iterator<Item = Result<(usize, Range<usize>)>> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let Ok(at) = usize::try_from(at + done as u64) else {
            done = len;
            return Some(Err(Errno::EFBIG));
        };
        let start = at % CHUNK;
        let end = CHUNK.min(start + len - done);
        done += end - start;
        Some(Ok((at / CHUNK, start..end)))
    })
}

impl MemoryFile {
    /// Maps all chunks up to one.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if the process may not have so much memory.
    fn map_until(&self, chunk: usize) -> Result<()> {
        let mut chunks = self.chunks.write();
        while chunks.len() <= chunk {
            let memory = mapping::anonymous(CHUNK).map_err(|_| Errno::ENOSPC)?;
            chunks.push(RwLock::new(Chunk { memory, used: 0 }));
        }
        Ok(())
    }

    fn write_part(&self, part: &[u8], at: u64) -> Result<()> {
        let mut rest = part;
        for place in cut(at, part.len()) {
            let (chunk, range) = place?;
            let (now, later) = rest.split_at(range.len());
            rest = later;
            let mut chunks = self.chunks.read();
            if chunks.len() <= chunk {
                drop(chunks);
                self.map_until(chunk)?;
                chunks = self.chunks.read();
            }
            chunks[chunk].write().write(range, now);
        }
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        let left = self.end.load(Ordering::Relaxed).saturating_sub(at);
        let len = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let mut rest = &mut buffer[..len];
        let chunks = self.chunks.read();
        for place in cut(at, len) {
            let (chunk, range) = place?;
            let (now, later) = rest.split_at_mut(range.len());
            rest = later;
            match chunks.get(chunk) {
                Some(chunk) => now.copy_from_slice(&chunk.read().memory[range]),
                None => now.fill(0),
            }
        }
        Ok(len)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> Result<()> {
        let mut end = at;
        for part in parts {
            self.write_part(part, end)?;
            end += part.len() as u64;
        }
        self.end.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        let len = usize::try_from(range.end - range.start).map_err(|_| Errno::EFBIG)?;
        let chunks = self.chunks.read();
        for place in cut(range.start, len) {
            let (chunk, range) = place?;
            if let Some(chunk) = chunks.get(chunk) {
                mapping::discard(&mut chunk.write().memory, range).map_err(|_| Errno::EIO)?;
            }
        }
        Ok(())
    }

    fn copy_from(&self, host: BorrowedFd<'_>, from: Range<u64>, at: u64) -> Result<u64> {
        let len = usize::try_from(from.end - from.start).map_err(|_| Errno::EFBIG)?;
        // A host's file that is slow must not hold the lock of a chunk.
        let mut buffer = vec![0; COPY_STEP.min(len)];
        let mut done = 0;
        while done < len {
            let step = buffer.len().min(len - done);
            let read = read_full(host, &mut buffer[..step], from.start + done as u64)?;
            if read == 0 {
                break;
            }
            self.write_at(&[IoSlice::new(&buffer[..read])], at + done as u64)?;
            done += read;
        }
        Ok(done as u64)
    }

    /// Returns at once: nothing of this file is to survive.
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use agentfs_testkit::random::Random;

    use super::*;

    /// Writes, copies and reads across the borders of chunks do what an array does.
    #[test]
    fn bytes_agree_with_an_array() {
        const END: usize = 2 * CHUNK + 1000;
        let mut random = Random::new(1);
        let (file, mut model) = (MemoryFile::default(), Vec::new());
        let host = tempfile::tempdir().unwrap();
        let path = host.path().join("file");
        std::fs::write(&path, random.bytes(300_000)).unwrap();
        let (bytes, host) = (std::fs::read(&path).unwrap(), File::open(&path).unwrap());
        for _ in 0..60 {
            let near = random.pick(&[0, CHUNK, 2 * CHUNK]);
            let at = (near + random.below(1000)).saturating_sub(random.below(1000));
            let len = random.below(300_000).min(END - at);
            model.resize(model.len().max(at + len), 0);
            let target = &mut model[at..at + len];
            if random.chance(50) {
                target.copy_from_slice(&bytes[..len]);
                let copied = file.copy_from(host.as_fd(), 0..len as u64, at as u64);
                assert_eq!(copied, Ok(len as u64));
            } else {
                target.copy_from_slice(&random.bytes(len));
                let (one, two) = target.split_at(len / 3);
                let parts = [one, two].map(IoSlice::new);
                assert_eq!(file.write_at(&parts, at as u64), Ok(()));
            }
            let mut read = vec![1; END];
            assert_eq!(file.read_at(&mut read, 0), Ok(model.len()));
            assert!(read.starts_with(&model));
        }
    }

    #[test]
    fn punching_leaves_the_bytes_around_a_range() {
        let file = MemoryFile::default();
        let (start, end) = (CHUNK as u64 - 8192, CHUNK as u64 + 8192);
        file.write_at(&[IoSlice::new(&vec![7; 4 * 8192])], start - 8192)
            .unwrap();
        file.punch(start..end).unwrap();
        let mut around = vec![0; 2 * 8192];
        let (before, after) = around.split_at_mut(8192);
        file.read_at(before, start - 8192).unwrap();
        file.read_at(after, end).unwrap();
        assert!(around.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn copying_stops_where_the_hosts_file_ends() {
        let host = tempfile::tempdir().unwrap();
        let path = host.path().join("file");
        std::fs::write(&path, b"short").unwrap();
        let host = File::open(&path).unwrap();
        let file = MemoryFile::default();
        assert_eq!(file.copy_from(host.as_fd(), 2..1 << 20, 100), Ok(3));
        let mut bytes = [0; 4];
        assert_eq!(file.read_at(&mut bytes, 100), Ok(3));
        assert_eq!(&bytes, b"ort\0");
    }
}
