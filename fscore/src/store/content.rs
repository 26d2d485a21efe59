//! The content of a regular file: copy-on-write pages, over ranges that are allocated or punched,
//! over an optional file of the lower layer. An operation costs what the file holds in its range,
//! and what is really written: an offset or a size that a caller makes up costs nothing.

mod marks;
mod page;

use std::ops::Range;
use std::sync::Arc;

use self::marks::{Mark, Marked, Marks};
pub(crate) use self::page::PAGE;
use self::page::{PAGE_BLOCKS, PAGE_LEN, Page, overwrite, pages_of, same_bytes, small};
use crate::model::errno::{Errno, Result};
use crate::model::stamp::Stamp;
use crate::store::trie::Trie;

/// The largest size of a file.
pub(crate) const MAX_SIZE: u64 = i64::MAX as u64;

/// What shows where there is no page.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// How many of the lower file's bytes still show.
    len: u64,
    /// Pages of the branch, written or marked, that lie over those.
    covered: u64,
    /// The lower file as it was when the branch copied it up.
    stamp: Stamp,
}

/// Reads bytes of the lower file at an offset; returns how many there are, fewer than the buffer
/// takes only at the end of the file.
pub(crate) type ReadBase<'a> = &'a dyn Fn(&Stamp, u64, &mut [u8]) -> Result<usize>;

/// Finds the first data (`true`) or hole of the lower file that is not before an offset.
pub(crate) type SeekBase<'a> = &'a dyn Fn(&Stamp, u64, bool) -> Result<Option<u64>>;

#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    size: u64,
    pages: Trie<Page>,
    /// What lies below those, and over the lower file.
    marks: Marks,
    /// Pages that take room. Holes do not.
    counted: u64,
    base: Option<Box<Base>>,
}

/// What a part of a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Run {
    /// A page with bytes.
    Page,
    /// No bytes, and the lower file does not show.
    Marked(Mark),
    /// The lower file shows.
    Below,
    /// Nothing was ever there.
    Nothing,
}

/// How many pages of a range the branch has.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    /// Those that take room.
    counted: u64,
    /// Those that lie over the lower file.
    covered: u64,
}

impl File {
    pub(crate) fn over_lower(stamp: Stamp) -> Self {
        Self {
            size: stamp.size,
            base: Some(Box::new(Base {
                len: stamp.size,
                covered: 0,
                stamp,
            })),
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
        let covered = self.base.as_ref().map_or(0, |base| base.covered);
        (self.counted + self.below() - covered) * PAGE_BLOCKS
    }

    /// Returns whether the file holds exactly what the lower file held.
    pub(crate) fn is_only_base(&self) -> bool {
        let is_whole = |base: &Base| (base.len, base.stamp.size) == (self.size, self.size);
        self.pages.len() == 0 && self.base.as_deref().is_some_and(is_whole)
    }

    /// Returns the version of the lower file below.
    pub(crate) fn lower(&self) -> Option<&Stamp> {
        self.base.as_deref().map(|base| &base.stamp)
    }

    /// Returns the version of the lower file from which some of the bytes still come.
    pub(crate) fn needs(&self) -> Option<Stamp> {
        let base = self.base.as_ref()?;
        (base.covered < base.len.div_ceil(PAGE)).then_some(base.stamp)
    }

    /// Returns whether the two certainly hold the same bytes. A lower file is not read for it.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        let bases = match (&self.base, &other.base) {
            (None, None) => true,
            (Some(a), Some(b)) => a.len == b.len && a.stamp.has_bytes_of(&b.stamp),
            _ => false,
        };
        if self.size != other.size || !bases {
            return false;
        }
        let below = self.below();
        let mut same = true;
        crate::store::trie::diff(&self.pages, &other.pages, &mut |page, old, new| {
            same &= match (old, new) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) || same_bytes(a, b),
                // The other file shows the lower file there, or else zeros.
                (Some(a), None) => !other.shows_base(page) && same_bytes(a, &[]),
                (None, Some(b)) => !self.shows_base(page) && same_bytes(&[], b),
                (None, None) => true,
            };
        });
        // A range that only one file has marked is zeros there, and shows the lower file in the
        // other, unless pages lie over both.
        same && self.hides_what_hides(other, below) && other.hides_what_hides(self, below)
    }

    /// Returns whether each part of the lower file that the other has marked is hidden here too.
    fn hides_what_hides(&self, other: &Self, below: u64) -> bool {
        other.marks.covered(0..below).into_iter().all(|range| {
            let mut at = range.start;
            while at < range.end {
                let (run, end) = self.run_at(at);
                if run == Run::Below {
                    return false;
                }
                at = end;
            }
            true
        })
    }

    /// Returns the number of pages of the lower file, whether they show or not.
    fn below(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.len.div_ceil(PAGE))
    }

    /// Returns whether a page without bytes of the branch shows the lower file.
    fn shows_base(&self, page: u64) -> bool {
        page < self.below() && self.marks.at(page).is_none()
    }

    /// Returns what is at a page, and the page at which something else begins.
    fn run_at(&self, page: u64) -> (Run, u64) {
        if self.pages.get(page).is_some() {
            return (Run::Page, page + 1);
        }
        let next = self.pages.range_from(page).next();
        let next = next.map_or(u64::MAX, |(next, _)| next);
        let next = match self.marks.from(page) {
            Some((range, mark)) if range.start <= page => {
                return (Run::Marked(mark), next.min(range.end));
            }
            Some((range, _)) => next.min(range.start),
            None => next,
        };
        let below = self.below();
        if page < below {
            (Run::Below, next.min(below))
        } else {
            (Run::Nothing, next)
        }
    }

    /// Counts what the branch has in a range: one step for each page with bytes and each mark there.
    fn tally(&self, range: Range<u64>) -> Tally {
        let below = self.below();
        let mut all = Tally::default();
        for (part, mark) in self.marks.within(range.clone()) {
            if mark.is_counted() {
                all.counted += part.end - part.start;
            }
            all.covered += part.end.min(below).saturating_sub(part.start);
        }
        let pages = self.pages.range_from(range.start);
        for (page, _) in pages.take_while(|(page, _)| *page < range.end) {
            let mark = self.marks.at(page);
            all.counted += u64::from(!mark.is_some_and(Mark::is_counted));
            all.covered += u64::from(mark.is_none() && page < below);
        }
        all
    }

    /// Removes what the branch has in a range, and marks the range anew.
    fn replace(&mut self, range: Range<u64>, parts: impl IntoIterator<Item = Marked>) {
        let pages = self.pages.range_from(range.start);
        let pages = pages.take_while(|(page, _)| *page < range.end);
        let gone: Vec<u64> = pages.map(|(page, _)| page).collect();
        self.change_marks(range, |file, range| {
            for page in gone {
                file.pages.remove(page);
            }
            file.marks.replace(range, parts);
        });
    }

    /// Changes what the branch has in a range, and updates the counts.
    fn change_marks(&mut self, range: Range<u64>, change: impl FnOnce(&mut Self, Range<u64>)) {
        let before = self.tally(range.clone());
        change(self, range.clone());
        let after = self.tally(range);
        self.counted = self.counted - before.counted + after.counted;
        if let Some(base) = &mut self.base {
            base.covered = base.covered - before.covered + after.covered;
        }
    }

    /// Reads up to the end of the file; returns the number of bytes. If the lower file was cut
    /// meanwhile, it ends where it ends now.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8], base: ReadBase<'_>) -> Result<usize> {
        let end = self.size.min(offset.saturating_add(buffer.len() as u64));
        let mut at = offset;
        while at < end {
            // A run is read as a whole, so that the host is asked once.
            let (run, run_end) = self.run_at(at / PAGE);
            let stop = end.min(run_end.saturating_mul(PAGE));
            let part = &mut buffer[small(at - offset)..small(stop - offset)];
            let read = self.read_run(run, at, part, base)?;
            if read < part.len() {
                return Ok(small(at - offset) + read);
            }
            at = stop;
        }
        Ok(small(end.saturating_sub(offset)))
    }

    /// Fills `part` with bytes at `at`, which lie in one run; returns how many there are.
    fn read_run(&self, run: Run, at: u64, part: &mut [u8], base: ReadBase<'_>) -> Result<usize> {
        let from = small(at % PAGE);
        match (run, self.pages.get(at / PAGE), &self.base) {
            (Run::Page, Some(bytes), _) => {
                let have = bytes.get(from..).unwrap_or(&[]);
                let n = have.len().min(part.len());
                part[..n].copy_from_slice(&have[..n]);
                part[n..].fill(0);
            }
            (Run::Below, _, Some(below)) if at < below.len => {
                let n = part
                    .len()
                    .min(usize::try_from(below.len - at).unwrap_or(usize::MAX));
                let read = base(&below.stamp, at, &mut part[..n])?;
                if read < n {
                    return Ok(read);
                }
                part[n..].fill(0);
            }
            _ => part.fill(0),
        }
        Ok(part.len())
    }

    /// Returns how many pages a write to `[start, end)` would add.
    pub(crate) fn new_pages(&self, start: u64, end: u64) -> u64 {
        let pages = pages_of(start, end);
        let len = pages.end.saturating_sub(pages.start);
        len - self.tally(pages).counted
    }

    /// Copies up the bytes of the lower file that a later write to, or punch of, `[start, end)`
    /// keeps. Only this part of a write or punch can fail.
    pub(crate) fn prepare(&mut self, start: u64, end: u64, base: ReadBase<'_>) -> Result<()> {
        if self.base.is_none() || start >= end {
            return Ok(());
        }
        let edges = [
            (start / PAGE, !start.is_multiple_of(PAGE)),
            ((end - 1) / PAGE, !end.is_multiple_of(PAGE)),
        ];
        for (page, _) in edges.into_iter().filter(|(_, partial)| *partial) {
            let below = self.base.as_ref().map_or(0, |base| base.len);
            if self.pages.get(page).is_none() && self.shows_base(page) {
                let mut bytes = vec![0; small((below - page * PAGE).min(PAGE))];
                let read = self.read_run(Run::Below, page * PAGE, &mut bytes, base)?;
                if read < bytes.len() {
                    return Err(Errno::ESTALE);
                }
                self.put(page, Arc::new(bytes));
            }
        }
        Ok(())
    }

    /// Sets the bytes of a page.
    fn put(&mut self, page: u64, bytes: Page) {
        if self.pages.insert(page, bytes).is_some() {
            return;
        }
        let mark = self.marks.at(page);
        self.counted += u64::from(!mark.is_some_and(Mark::is_counted));
        if mark.is_none()
            && let Some(base) = &mut self.base
            && page < base.len.div_ceil(PAGE)
        {
            base.covered += 1;
        }
    }

    /// Writes. The range must be [prepared](Self::prepare).
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        for page in pages_of(offset, end) {
            let start = offset.max(page * PAGE);
            let stop = end.min((page + 1) * PAGE);
            let part = &data[small(start - offset)..small(stop - offset)];
            self.write_page(page, small(start % PAGE), part);
        }
        self.size = self.size.max(end);
    }

    fn write_page(&mut self, page: u64, from: usize, part: &[u8]) {
        if let Some(bytes) = self.pages.get_mut(page) {
            if part.len() < PAGE_LEN || Arc::get_mut(bytes).is_some() {
                overwrite(Arc::make_mut(bytes), from, part);
            } else {
                *bytes = Arc::new(part.to_vec());
            }
            return;
        }
        let mut bytes = Vec::new();
        overwrite(&mut bytes, from, part);
        self.put(page, Arc::new(bytes));
    }

    /// Sets the size. What is cut off is forgotten, so that growing again shows zeros.
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
            self.pages = Trie::default();
            self.marks = Marks::default();
            self.counted = 0;
            self.base = None;
            return;
        }
        self.replace(keep..u64::MAX, None);
        if !size.is_multiple_of(PAGE)
            && let Some(bytes) = self.pages.get_mut(keep - 1)
        {
            Arc::make_mut(bytes).truncate(small(size % PAGE));
        }
        if let Some(base) = &mut self.base {
            base.len = base.len.min(size);
        }
    }

    /// Makes every page of the range take room, without changing a byte.
    pub(crate) fn allocate(&mut self, start: u64, end: u64) {
        let (range, below) = (pages_of(start, end), self.below());
        let mut parts = Vec::new();
        let mut at = range.start;
        // Where the lower file shows, the pages take room already.
        let fill = |from: u64, to: u64| (from.max(below).min(to)..to, Mark::Allocated);
        for (part, mark) in self.marks.within(range.clone()) {
            parts.push(fill(at, part.start));
            at = part.end;
            let mark = match mark {
                Mark::Hole => Mark::Allocated,
                // As on tmpfs, a range that is allocated twice counts as data from then on.
                Mark::Allocated | Mark::Zeros => Mark::Zeros,
            };
            parts.push((part, mark));
        }
        parts.push(fill(at, range.end));
        self.change_marks(range, |file, range| file.marks.replace(range, parts));
    }

    /// Makes the range zero and gives whole pages back. The range must be
    /// [prepared](Self::prepare).
    pub(crate) fn punch(&mut self, start: u64, end: u64) {
        let whole = start.div_ceil(PAGE)..end / PAGE;
        if whole.start > whole.end {
            return self.zero(start / PAGE, small(start % PAGE), small(end - start));
        }
        if !start.is_multiple_of(PAGE) {
            let from = start % PAGE;
            self.zero(start / PAGE, small(from), small(PAGE - from));
        }
        if !end.is_multiple_of(PAGE) {
            self.zero(end / PAGE, 0, small(end % PAGE));
        }
        let over_lower = whole.start..whole.end.min(self.below());
        let hole = (!over_lower.is_empty()).then_some((over_lower, Mark::Hole));
        self.replace(whole, hole);
    }

    fn zero(&mut self, page: u64, from: usize, len: usize) {
        if let Some(bytes) = self.pages.get_mut(page) {
            let bytes = Arc::make_mut(bytes);
            let end = bytes.len().min(from + len);
            if let Some(range) = bytes.get_mut(from..end) {
                range.fill(0);
            }
        }
    }

    /// Returns the first offset not before `offset` that holds data, or a hole when `data` is
    /// false. The end of the file counts as a hole, and there is no data at or after it.
    pub(crate) fn seek(&self, offset: u64, data: bool, base: SeekBase<'_>) -> Result<Option<u64>> {
        let mut at = offset;
        while at < self.size {
            let (run, run_end) = self.run_at(at / PAGE);
            let mut stop = self.size.min(run_end.saturating_mul(PAGE));
            let is_data = match (run, &self.base) {
                (Run::Below, Some(below)) if at < below.len => {
                    stop = stop.min(below.len);
                    if let Some(found) = base(&below.stamp, at, data)?
                        && found < stop
                    {
                        return Ok(Some(found.max(at)));
                    }
                    !data
                }
                (Run::Page | Run::Marked(Mark::Zeros), _) => true,
                (Run::Below | Run::Nothing | Run::Marked(Mark::Hole | Mark::Allocated), _) => false,
            };
            if is_data == data {
                return Ok(Some(at));
            }
            at = stop;
        }
        Ok((!data && offset < self.size).then_some(self.size))
    }

    /// Returns the next range at or after `from` that may hold other bytes than zero, as far as the
    /// holes of the branch and of the lower file are known.
    pub(crate) fn next_data(&self, from: u64, base: SeekBase<'_>) -> Result<Option<Range<u64>>> {
        let Some(start) = self.seek(from, true, base)? else {
            return Ok(None);
        };
        let end = self.seek(start, false, base)?.unwrap_or(self.size);
        Ok(Some(start..end))
    }
}
