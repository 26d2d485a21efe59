//! The content of a regular file: pieces of [extents](crate::store::extents), over ranges that are
//! allocated, or else all of a file of the lower layer. An operation costs what the file holds in
//! its range and what is really written: an offset or a size that a caller makes up costs nothing.

mod compare;
mod marks;
mod pieces;
mod recover;
mod write;

use std::ops::Range;

use self::marks::Marks;
pub(crate) use self::marks::{Mark, Marked};
use self::pieces::{Piece, Pieces};
pub(crate) use self::recover::Part;
use crate::model::errno::Result;
use crate::model::stamp::Stamp;

/// Bytes in a page: as many as in the kernel's, so that sparse files count and seek as on tmpfs.
pub(crate) const PAGE: u64 = 4096;
/// Units of 512 bytes in a page.
const PAGE_BLOCKS: u64 = PAGE / 512;

/// The largest size of a file.
pub(crate) const MAX_SIZE: u64 = i64::MAX as u64;

/// Reads bytes of the lower file at an offset; returns how many there are, fewer than the buffer
/// takes only at the end of the file.
pub(crate) type ReadLower<'a> = &'a dyn Fn(&Stamp, u64, &mut [u8]) -> Result<usize>;

/// Finds the first data (`true`) or hole of the lower file that is not before an offset.
pub(crate) type SeekLower<'a> = &'a dyn Fn(&Stamp, u64, bool) -> Result<Option<u64>>;

#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    size: u64,
    pieces: Pieces,
    /// What lies below those.
    marks: Marks,
    /// Pages that take room. Holes do not.
    counted: u64,
    /// The version of the lower file that is all of the content. The first change of the content
    /// brings it up.
    lower: Option<Box<Stamp>>,
    /// Whether the pieces hold that version, so that the lower file is not read any more.
    is_kept: bool,
    /// The pages that are to be written to the log.
    changed: Range<u64>,
}

/// What a part of a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Run {
    /// Bytes.
    Piece,
    /// No bytes, but room.
    Marked(Mark),
    /// Nothing was ever there.
    Nothing,
}

impl File {
    pub(crate) fn over_lower(stamp: Stamp) -> Self {
        Self {
            size: stamp.size,
            lower: Some(Box::new(stamp)),
            ..Self::default()
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the number of pages that this file takes from the branch's limit.
    pub(crate) fn counted(&self) -> u64 {
        self.counted
    }

    pub(crate) fn blocks(&self) -> u64 {
        let below = self.read_below().map_or(0, |_| self.size.div_ceil(PAGE));
        (self.counted + below) * PAGE_BLOCKS
    }

    /// Returns the version of the lower file that is all of the content, if the branch has changed
    /// none of it.
    pub(crate) fn lower(&self) -> Option<&Stamp> {
        self.lower.as_deref()
    }

    /// Returns the version of the lower file that has to be read, because it is all of the content
    /// and the branch holds none of it.
    pub(crate) fn read_below(&self) -> Option<&Stamp> {
        self.lower().filter(|_| !self.is_kept)
    }

    /// Returns whether the content is that of a lower file, and held by the branch all the same.
    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Holds the content of the lower file, which `own` has, and remembers that it is unchanged.
    pub(crate) fn keep(&mut self, own: Self) {
        *self = Self {
            lower: self.lower.take(),
            is_kept: true,
            ..own
        };
    }

    /// Makes content that is [kept](Self::keep) the branch's own, which may be changed.
    pub(crate) fn own_kept(&mut self) {
        self.lower = None;
        self.is_kept = false;
    }

    /// Returns what is at a page, and the page at which something else begins.
    fn run_at(&self, page: u64) -> (Run, u64) {
        let (is_piece, next) = match self.pieces.from(page) {
            Some((first, piece)) if first <= page => (true, first + piece.pages()),
            Some((first, _)) => (false, first),
            None => (false, u64::MAX),
        };
        if is_piece {
            return (Run::Piece, next);
        }
        match self.marks.from(page) {
            Some((range, mark)) if range.start <= page => (Run::Marked(mark), next.min(range.end)),
            Some((range, _)) => (Run::Nothing, next.min(range.start)),
            None => (Run::Nothing, next),
        }
    }

    /// Counts the pages that take room in a range: one step for each piece and each mark there.
    fn tally(&self, range: Range<u64>) -> u64 {
        let mut counted = 0;
        for (part, _) in self.marks.within(range.clone()) {
            counted += part.end - part.start;
        }
        for (pages, _) in self.pieces.within(range) {
            counted += pages.end - pages.start;
            for (part, _) in self.marks.within(pages) {
                counted -= part.end - part.start;
            }
        }
        counted
    }

    /// Removes what the branch has in a range of pages, and marks the range anew.
    fn replace(&mut self, range: Range<u64>, parts: impl IntoIterator<Item = Marked>) {
        self.recount(range, |file, range| {
            file.pieces.cut_out(range.clone());
            file.marks.replace(range, parts);
        });
    }

    /// Changes what the branch has in a range, and updates the count.
    fn recount(&mut self, range: Range<u64>, change: impl FnOnce(&mut Self, Range<u64>)) {
        self.mark_changed(range.clone());
        let before = self.tally(range.clone());
        change(self, range.clone());
        self.counted = self.counted - before + self.tally(range);
    }

    /// Reads up to the end of the file; returns the number of bytes. If the lower file was cut
    /// meanwhile, it ends where it ends now.
    pub(crate) fn read(
        &self,
        offset: u64,
        buffer: &mut [u8],
        lower: ReadLower<'_>,
    ) -> Result<usize> {
        let end = self.size.min(offset.saturating_add(buffer.len() as u64));
        if offset >= end {
            return Ok(0);
        }
        let buffer = &mut buffer[..len_of(end - offset)];
        if let Some(stamp) = self.read_below() {
            return lower(stamp, offset, buffer);
        }
        let mut at = offset;
        while at < end {
            let (run, run_end) = self.run_at(at / PAGE);
            let stop = end.min(run_end.saturating_mul(PAGE));
            let part = &mut buffer[len_of(at - offset)..len_of(stop - offset)];
            match self.pieces.from(at / PAGE) {
                Some((first, piece)) if run == Run::Piece => piece.read(at - first * PAGE, part)?,
                _ => part.fill(0),
            }
            at = stop;
        }
        Ok(buffer.len())
    }

    /// Returns how many pages a write to `[start, end)` would add.
    pub(crate) fn new_pages(&self, start: u64, end: u64) -> u64 {
        let pages = pages_of(start, end);
        let len = pages.end.saturating_sub(pages.start);
        len - self.tally(pages)
    }

    /// Sets the size. What is cut off is forgotten, so that growing again shows zeros. The lower
    /// file must have been brought up as far as it stays.
    pub(crate) fn resize(&mut self, size: u64) {
        if size <= self.size {
            // An equal size cuts too: pages allocated beyond the end are given back.
            self.cut(size);
        }
        self.size = size;
    }

    fn cut(&mut self, size: u64) {
        let keep = size.div_ceil(PAGE);
        if keep == 0 {
            *self = Self {
                changed: 0..u64::MAX,
                ..Self::default()
            };
            return;
        }
        self.replace(keep..u64::MAX, None);
        if !size.is_multiple_of(PAGE) {
            self.mark_changed(keep - 1..keep);
            self.pieces.truncate(size);
        }
    }

    /// Makes every page of the range take room, without changing a byte.
    pub(crate) fn allocate(&mut self, start: u64, end: u64) {
        let range = pages_of(start, end);
        let mut parts = Vec::new();
        let mut at = range.start;
        for (part, _) in self.marks.within(range.clone()) {
            parts.push((at..part.start, Mark::Allocated));
            at = part.end;
            // As on tmpfs, a range that is allocated twice counts as data from then on.
            parts.push((part, Mark::Zeros));
        }
        parts.push((at..range.end, Mark::Allocated));
        self.recount(range, |file, range| file.marks.replace(range, parts));
    }

    /// Returns the first offset not before `offset` that holds data, or a hole when `data` is
    /// false. The end of the file counts as a hole, and there is no data at or after it.
    pub(crate) fn seek(
        &self,
        offset: u64,
        data: bool,
        lower: SeekLower<'_>,
    ) -> Result<Option<u64>> {
        if offset >= self.size {
            return Ok(None);
        }
        let end = (!data).then_some(self.size);
        if let Some(stamp) = self.read_below() {
            let found = lower(stamp, offset, data)?;
            return Ok(found.filter(|found| *found < self.size).or(end));
        }
        let mut at = offset;
        while at < self.size {
            let (run, run_end) = self.run_at(at / PAGE);
            let is_data = matches!(run, Run::Piece | Run::Marked(Mark::Zeros));
            if is_data == data {
                return Ok(Some(at));
            }
            at = self.size.min(run_end.saturating_mul(PAGE));
        }
        Ok(end)
    }

    /// Returns the next range at or after `from` that may hold other bytes than zero, as far as the
    /// holes of the branch and of the lower file are known.
    pub(crate) fn next_data(&self, from: u64, lower: SeekLower<'_>) -> Result<Option<Range<u64>>> {
        let Some(start) = self.seek(from, true, lower)? else {
            return Ok(None);
        };
        let end = self.seek(start, false, lower)?.unwrap_or(self.size);
        Ok(Some(start..end))
    }
}

/// Returns the page numbers that `[start, end)` touches.
fn pages_of(start: u64, end: u64) -> Range<u64> {
    start / PAGE..end.div_ceil(PAGE)
}

/// Converts a length that fits in memory.
#[expect(clippy::cast_possible_truncation, reason = "the length of a buffer")]
fn len_of(length: u64) -> usize {
    length as usize
}

#[cfg(test)]
mod tests;
