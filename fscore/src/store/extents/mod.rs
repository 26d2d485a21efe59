//! Where the bytes of files lie: extents, which are ranges of one large file. Branches and
//! snapshots share an extent until one of them writes; an extent that nothing refers to any more is
//! free, and its blocks go back to the disk.

mod free_ranges;
mod small_blocks;

use std::fmt;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use rustix::fd::BorrowedFd;

use self::free_ranges::FreeRanges;
use self::small_blocks::SmallBlocks;
use crate::disk::{DiskFile, anonymous};
use crate::model::errno::Result;
use crate::sync::Mutex;

/// Bytes in a block of the disk. Extents of a block and more begin at a multiple of it.
pub(crate) const BLOCK: u64 = 4096;

/// Freed ranges of this size are given back at once, and smaller ones once they are together
/// [`PUNCH_TOTAL`]: a range that is soon used again need not go to the disk and come back.
const PUNCH_AT_ONCE: u64 = 128 << 10;
const PUNCH_TOTAL: u64 = 4 << 20;

/// All extents of a filesystem, and the file in which they lie.
pub(crate) struct Extents {
    file: OnceLock<Box<dyn DiskFile>>,
    free: Mutex<Free>,
}

/// What no extent takes.
#[derive(Debug, Default)]
struct Free {
    ranges: FreeRanges,
    small: SmallBlocks,
    /// Where the file ends.
    end: u64,
}

/// A range of the file, which is free again when this is dropped.
pub(crate) struct Extent {
    extents: Arc<Extents>,
    at: u64,
    len: u64,
}

impl fmt::Debug for Extents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = self.free.lock();
        f.debug_struct("Extents")
            .field("end", &free.end)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extent({}..{})", self.at, self.at + self.len)
    }
}

impl Extents {
    /// Creates extents in memory. The file is created when the first one is asked for.
    pub(crate) fn in_memory() -> Arc<Self> {
        Arc::new(Self {
            file: OnceLock::new(),
            free: Mutex::default(),
        })
    }

    fn file(&self) -> Result<&dyn DiskFile> {
        if let Some(file) = self.file.get() {
            return Ok(&**file);
        }
        let file = Box::new(anonymous()?);
        Ok(&**self.file.get_or_init(|| file))
    }

    /// Returns an extent of at least `len` bytes. What it holds has no meaning.
    pub(crate) fn allocate(self: &Arc<Self>, len: u64) -> Result<Extent> {
        self.file()?;
        let mut free = self.free.lock();
        let (at, len) = match SmallBlocks::class_of(len) {
            Some(class) => free.allocate_small(class),
            None => {
                let len = len.next_multiple_of(BLOCK);
                (free.allocate_blocks(len), len)
            }
        };
        drop(free);
        let extents = self.clone();
        Ok(Extent { extents, at, len })
    }

    /// Returns how many bytes of the file extents take.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> u64 {
        let free = self.free.lock();
        free.end - free.ranges.total() - free.small.total()
    }

    /// Frees a range of the file.
    fn free(&self, at: u64, len: u64) {
        let mut free = self.free.lock();
        let blocks = match SmallBlocks::class_of(len) {
            Some(class) => free.small.free(at, class),
            None => Some(at..at + len),
        };
        let Some(blocks) = blocks else { return };
        let is_large = blocks.end - blocks.start >= PUNCH_AT_ONCE;
        free.ranges.insert(blocks.clone(), is_large);
        // The lock is held over the call, so that nobody is given the range meanwhile.
        if is_large {
            self.punch(blocks);
        } else if free.ranges.unpunched() >= PUNCH_TOTAL {
            for range in free.ranges.take_unpunched() {
                self.punch(range);
            }
        }
    }

    fn punch(&self, range: Range<u64>) {
        if let Some(file) = self.file.get()
            && let Err(errno) = file.punch(range)
        {
            // The range is free all the same, and only keeps its blocks.
            tracing::debug!(%errno, "blocks could not be given back");
        }
    }
}

impl Free {
    fn allocate_blocks(&mut self, len: u64) -> u64 {
        self.ranges.take(len).unwrap_or_else(|| {
            let at = self.end;
            self.end += len;
            at
        })
    }

    fn allocate_small(&mut self, class: u64) -> (u64, u64) {
        let at = self.small.take(class).unwrap_or_else(|| {
            let block = self.allocate_blocks(BLOCK);
            self.small.add(block, class)
        });
        (at, class)
    }
}

impl Extent {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Reads bytes that were written.
    pub(crate) fn read(&self, skip: u64, buffer: &mut [u8]) -> Result<()> {
        let read = self.extents.file()?.read_at(buffer, self.at + skip)?;
        // The file is as long as what was written; a disk may have lost its end.
        buffer[read..].fill(0);
        Ok(())
    }

    pub(crate) fn write(&self, skip: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        self.extents.file()?.write_at(parts, self.at + skip)
    }

    /// Copies bytes of a file of the host; returns how many there were.
    pub(crate) fn copy_from(
        &self,
        host: BorrowedFd<'_>,
        from: Range<u64>,
        skip: u64,
    ) -> Result<u64> {
        self.extents.file()?.copy_from(host, from, self.at + skip)
    }

    /// Cuts the extent into its bytes before `keep` and those from `resume` on, and frees what lies
    /// between. Both are multiples of [`BLOCK`].
    pub(crate) fn cut_out(self, keep: u64, resume: u64) -> (Option<Self>, Option<Self>) {
        let part = |range: Range<u64>| {
            (!range.is_empty()).then(|| Self {
                extents: self.extents.clone(),
                at: self.at + range.start,
                len: range.end - range.start,
            })
        };
        let keep = keep.min(self.len);
        let resume = resume.clamp(keep, self.len);
        let parts = (part(0..keep), part(resume..self.len));
        if keep < resume {
            drop(part(keep..resume));
        }
        let mut whole = self;
        // Its parts own the range now, and a drop of nothing frees nothing.
        whole.len = 0;
        parts
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        if self.len > 0 {
            self.extents.free(self.at, self.len);
        }
    }
}
