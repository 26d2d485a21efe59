//! Where the bytes of files lie: extents, which are ranges of one large file. Branches and
//! snapshots share an extent until one of them writes; an extent that nothing refers to any more is
//! free, and its blocks go back to the disk.

mod free_ranges;
mod limit;
mod owed;
mod small_blocks;

use std::fmt;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use rustix::fd::BorrowedFd;

use self::free_ranges::FreeRanges;
use self::limit::Limit;
pub(crate) use self::owed::Owed;
use self::small_blocks::SmallBlocks;
use crate::disk::{DiskFile, MemoryFile};
use crate::model::errno::{Errno, Result};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes in a block of the disk. Extents of a block and more begin at a multiple of it.
pub(crate) const BLOCK: u64 = 4096;

/// Freed ranges of this size are given back at once, and smaller ones once they are together
/// [`PUNCH_TOTAL`]: a range that is soon used again need not go to the disk and come back.
const PUNCH_AT_ONCE: u64 = 128 << 10;
const PUNCH_TOTAL: u64 = 4 << 20;

/// All extents of a filesystem, and the file in which they lie.
pub(crate) struct Extents {
    file: Arc<dyn DiskFile>,
    free: Mutex<Free>,
    /// How often [`begin_sync`](Self::begin_sync) was called; 0 for ever in memory.
    period: AtomicU64,
    /// Read by an operation while it changes extents and is written to the log, and locked by a
    /// sync for a moment: each operation lies wholly before it or wholly after it.
    in_flight: RwLock<()>,
    /// How many branches have changes that are in no record yet.
    owed: AtomicUsize,
    limit: Limit,
}

/// What no extent takes.
#[derive(Debug, Default)]
struct Free {
    ranges: FreeRanges,
    small: SmallBlocks,
    /// Where the file ends.
    end: u64,
    /// How many bytes of the file are in blocks that some extent takes.
    used: u64,
    freeing: Freeing,
}

/// What becomes of an extent to which nothing refers any more.
#[derive(Debug, Default)]
enum Freeing {
    /// It is free.
    #[default]
    AtOnce,
    /// Nothing: the extents are being read from a log, and what is free is not known yet.
    Never,
    /// It is free once the change that freed it survives a power cut. Until then the content before
    /// that change is in it.
    Later {
        /// Freed since the last sync began.
        new: Vec<(u64, u64)>,
        /// Freed before that: they are free once a sync has succeeded.
        old: Vec<(u64, u64)>,
    },
}

/// A range of the file, which is free again when this is dropped.
pub(crate) struct Extent {
    extents: Arc<Extents>,
    at: u64,
    len: u64,
    /// In which period it was allocated: see [`is_writable`](Self::is_writable).
    period: u64,
    /// Where the bytes end that were ever written.
    written: AtomicU64,
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
    /// Creates extents in memory.
    pub(crate) fn in_memory() -> Arc<Self> {
        Arc::new(Self {
            file: Arc::new(MemoryFile::default()),
            free: Mutex::default(),
            period: AtomicU64::new(0),
            in_flight: RwLock::default(),
            owed: AtomicUsize::new(0),
            limit: Limit::default(),
        })
    }

    /// Returns an extent of at least `len` bytes. What it holds has no meaning.
    ///
    /// # Errors
    ///
    /// `ENOSPC` at the limit of the store; `EROFS` when it is only read.
    pub(crate) fn allocate(self: &Arc<Self>, len: u64) -> Result<Extent> {
        let mut free = self.free.lock();
        if matches!(free.freeing, Freeing::Never) {
            // It is not known where other extents are: the store is only read.
            return Err(Errno::EROFS);
        }
        self.limit.check(free.used, len)?;
        let (at, len) = match SmallBlocks::class_of(len) {
            Some(class) => free.allocate_small(class),
            None => {
                let len = len.next_multiple_of(BLOCK);
                (free.allocate_blocks(len), len)
            }
        };
        drop(free);
        Ok(self.extent(at, len, self.period.load(Ordering::Relaxed), 0))
    }

    /// Returns how many bytes of the file extents take.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> u64 {
        self.use_of_file().0
    }

    /// Returns how many bytes of the file extents take, and how many between those none takes.
    pub(crate) fn use_of_file(&self) -> (u64, u64) {
        let free = self.free.lock();
        let unused = free.ranges.total() + free.small.total();
        (free.end - unused, unused)
    }

    fn extent(self: &Arc<Self>, at: u64, len: u64, period: u64, written: u64) -> Extent {
        Extent {
            extents: self.clone(),
            at,
            len,
            period,
            written: AtomicU64::new(written),
        }
    }

    /// Frees an extent, now or later.
    fn free(&self, at: u64, len: u64) {
        let mut free = self.free.lock();
        match &mut free.freeing {
            Freeing::AtOnce => self.free_now(&mut free, at, len),
            Freeing::Never => {}
            Freeing::Later { new, .. } => new.push((at, len)),
        }
    }

    /// Frees a range of the file. The lock is held over the calls to the disk, so that nobody is
    /// given the range meanwhile.
    fn free_now(&self, free: &mut Free, at: u64, len: u64) {
        let blocks = match SmallBlocks::class_of(len) {
            Some(class) => free.small.free(at, class),
            None => Some(at..at + len),
        };
        let Some(blocks) = blocks else { return };
        free.used -= blocks.end - blocks.start;
        let is_large = blocks.end - blocks.start >= PUNCH_AT_ONCE;
        free.ranges.insert(blocks.clone(), is_large);
        if is_large {
            self.punch(blocks);
        } else if free.ranges.unpunched() >= PUNCH_TOTAL {
            for range in free.ranges.take_unpunched() {
                self.punch(range);
            }
        }
    }

    /// Creates extents in a file that has some already, which [`adopt`](Self::adopt) names. Until
    /// [`recovered`](Self::recovered) has said that these were all, nothing is free.
    pub(crate) fn recovering(file: Arc<dyn DiskFile>) -> Arc<Self> {
        let free = Free {
            freeing: Freeing::Never,
            ..Free::default()
        };
        Arc::new(Self {
            file,
            free: Mutex::new(free),
            period: AtomicU64::new(1),
            in_flight: RwLock::default(),
            owed: AtomicUsize::new(0),
            limit: Limit::default(),
        })
    }

    /// Returns an extent that is in the file.
    pub(crate) fn adopt(self: &Arc<Self>, at: u64, len: u64) -> Extent {
        self.extent(at, len, 0, len)
    }

    /// Ends the recovery: everything in the file is free but these ranges.
    ///
    /// # Errors
    ///
    /// Returns where an extent begins that overlaps another one or is none.
    pub(crate) fn recovered(&self, mut live: Vec<Range<u64>>) -> Result<(), u64> {
        live.sort_by_key(|range| range.start);
        let mut free = Free {
            freeing: Freeing::Later {
                new: Vec::new(),
                old: Vec::new(),
            },
            ..Free::default()
        };
        let mut blocks_end = 0;
        for Range { start, end } in live {
            let (len, class) = (end - start, SmallBlocks::class_of(end - start));
            let unit = class.unwrap_or(BLOCK);
            if start < free.end || !start.is_multiple_of(unit) || !len.is_multiple_of(unit) {
                return Err(start);
            }
            let block = start / BLOCK * BLOCK;
            if block >= blocks_end {
                if blocks_end < block {
                    free.ranges.insert(blocks_end..block, false);
                }
                blocks_end = block;
            }
            if let Some(class) = class {
                free.small.adopt(start, class).ok_or(start)?;
            } else if start < blocks_end {
                return Err(start);
            }
            free.end = end;
            blocks_end = end.next_multiple_of(BLOCK);
        }
        free.end = blocks_end;
        free.small.adopted();
        free.used = free.end - free.ranges.total();
        *self.free.lock() = free;
        Ok(())
    }

    /// Begins an operation that may change extents, and ends it when the returned guard is dropped.
    /// A thread begins no other one meanwhile.
    pub(crate) fn operation(&self) -> RwLockReadGuard<'_, ()> {
        self.in_flight.read()
    }

    /// Waits until no operation is under way, and lets none begin while the guard lives.
    pub(crate) fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.in_flight.write()
    }

    /// Begins a sync: from now on, what was written before is not overwritten in place. Calls
    /// `count` while no operation is under way.
    pub(crate) fn begin_sync(&self, count: &mut dyn FnMut()) {
        let _paused = self.pause();
        count();
        self.period.fetch_add(1, Ordering::Relaxed);
        if let Freeing::Later { new, old } = &mut self.free.lock().freeing
            && !self.is_owed()
        {
            // A sync that has failed leaves some behind.
            old.append(new);
        }
    }

    /// Ends a sync that has succeeded: what was freed before it began is free.
    pub(crate) fn end_sync(&self) {
        let mut free = self.free.lock();
        let Freeing::Later { old, .. } = &mut free.freeing else {
            return;
        };
        for (at, len) in std::mem::take(old) {
            self.free_now(&mut free, at, len);
        }
    }

    /// Frees everything that waits until the change that freed it survives a power cut, if all changes
    /// do. `is_durable` is called while no operation is under way.
    pub(crate) fn free_waiting(&self, is_durable: impl FnOnce() -> bool) {
        let _none_under_way = self.pause();
        if self.is_owed() || !is_durable() {
            return;
        }
        let mut free = self.free.lock();
        let Freeing::Later { new, old } = &mut free.freeing else {
            return;
        };
        let mut over = std::mem::take(old);
        over.append(new);
        for (at, len) in over {
            self.free_now(&mut free, at, len);
        }
    }

    /// Returns the blocks of all free ranges to the filesystem of the store.
    pub(crate) fn give_back(&self) {
        let mut free = self.free.lock();
        for range in free.ranges.take_unpunched() {
            self.punch(range);
        }
    }

    /// Waits until all content that was written survives a power cut.
    pub(crate) fn sync_file(&self) -> Result<()> {
        self.file.sync()
    }

    fn punch(&self, range: Range<u64>) {
        if let Err(errno) = self.file.punch(range) {
            // The range is free all the same, and only keeps its blocks.
            tracing::debug!(%errno, "blocks could not be given back");
        }
    }
}

impl Free {
    fn allocate_blocks(&mut self, len: u64) -> u64 {
        self.used += len;
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
    /// Returns where the extent begins in the file.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether bytes from `skip` on may be written: none were, or nothing that survives a
    /// power cut refers to them, because no sync has begun since the extent was allocated. Relaxed
    /// is enough: one operation at a time writes to an extent, and the period changes only while
    /// none is under way; the locks for that order both.
    pub(crate) fn is_writable(&self, skip: u64) -> bool {
        skip >= self.written.load(Ordering::Relaxed)
            || self.period == self.extents.period.load(Ordering::Relaxed)
    }

    fn has_written(&self, end: u64) {
        self.written.fetch_max(end, Ordering::Relaxed);
    }

    /// Reads bytes that were written.
    ///
    /// # Errors
    ///
    /// Those of the disk; `EIO` if the file has lost its end.
    pub(crate) fn read(&self, skip: u64, buffer: &mut [u8]) -> Result<()> {
        let read = self.extents.file.read_at(buffer, self.at + skip)?;
        if read < buffer.len() {
            return Err(Errno::EIO);
        }
        Ok(())
    }

    pub(crate) fn write(&self, skip: u64, parts: &[IoSlice<'_>]) -> Result<()> {
        self.has_written(skip + parts.iter().map(|part| part.len() as u64).sum::<u64>());
        self.extents.file.write_at(parts, self.at + skip)
    }

    /// Copies bytes of a file of the host; returns how many there were.
    pub(crate) fn copy_from(
        &self,
        host: BorrowedFd<'_>,
        from: Range<u64>,
        skip: u64,
    ) -> Result<u64> {
        self.has_written(skip + (from.end - from.start));
        self.extents.file.copy_from(host, from, self.at + skip)
    }

    /// Cuts the extent into its bytes before `keep` and those from `resume` on, and frees what lies
    /// between. Both are multiples of [`BLOCK`].
    pub(crate) fn cut_out(self, keep: u64, resume: u64) -> (Option<Self>, Option<Self>) {
        let part = |range: Range<u64>| {
            let (at, len) = (self.at + range.start, range.end - range.start);
            let written = self.written.load(Ordering::Relaxed);
            let written = written.saturating_sub(range.start).min(len);
            (len > 0).then(|| self.extents.extent(at, len, self.period, written))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::directory::Directory as _;
    use crate::disk::simulated::SimulatedDisk;

    #[test]
    fn freed_range_is_used_again_once_a_sync_has_succeeded_and_not_once_one_has_failed() {
        let disk = SimulatedDisk::new(1);
        let extents = Extents::recovering(disk.create("content").unwrap());
        extents.recovered(Vec::new()).unwrap();
        let at = extents.allocate(BLOCK).unwrap().at();
        let mut taken = Vec::new();
        let mut is_reused = || {
            taken.push(extents.allocate(BLOCK).unwrap());
            taken.last().is_some_and(|extent| extent.at() == at)
        };
        assert!(!is_reused(), "the change that freed it is in no sync");
        for _ in 0..3 {
            extents.begin_sync(&mut || {});
            assert!(!is_reused(), "that sync has not ended, or has failed");
        }
        extents.end_sync();
        assert!(is_reused());
    }
}
