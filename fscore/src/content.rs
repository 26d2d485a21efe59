//! The content of a regular file: copy-on-write pages over an optional file of the lower layer.

use std::ops::Range;
use std::sync::Arc;

use crate::attr::Nanos;
use crate::errno::{Errno, Result};
use crate::trie::Trie;

/// Bytes in a page: the kernel's, so that sparse files count and seek as on tmpfs.
pub(crate) const PAGE: u64 = 4096;
const PAGE_LEN: usize = 4096;
/// Units of 512 bytes in a page.
const PAGE_BLOCKS: u64 = PAGE / 512;
/// The largest size of a file.
pub(crate) const MAX_SIZE: u64 = i64::MAX as u64;

#[derive(Clone, Debug)]
enum Page {
    /// The page's first bytes; the rest of it is zero.
    Data(Arc<Vec<u8>>),
    /// Allocated by fallocate and never written.
    Allocated,
    /// Punched: hides the lower file's bytes.
    Hole,
}

impl Page {
    fn is_counted(&self) -> bool {
        !matches!(self, Self::Hole)
    }
}

/// What shows where there is no page.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// How many of the lower file's bytes still show.
    len: u64,
    /// Pages of the branch that lie over those.
    covered: u64,
    /// The lower file as it was when the branch copied it up.
    stamp: Stamp,
}

/// A version of a file or symbolic link of the host, for as long as it is the same object.
///
/// The time of the last change of any kind is part of it, because the host can set the time of the
/// last change of content back (`cp -p`, `tar`, `rsync`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// The last change of content.
    pub mtime: Nanos,
    /// The last change of anything.
    pub ctime: Nanos,
}

impl Stamp {
    /// Of what has no content that could change: a directory or a special file.
    pub(crate) const NONE: Self = Self {
        size: 0,
        mtime: 0,
        ctime: 0,
    };

    /// Whether the bytes are the same, unless the host set the time of their change back. What
    /// applying itself does to a file (another name, other permissions) does not count.
    pub(crate) fn has_bytes_of(&self, other: &Self) -> bool {
        (self.size, self.mtime) == (other.size, other.mtime)
    }
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
    /// Pages that take room, holes not among them.
    counted: u64,
    base: Option<Box<Base>>,
}

/// What a page holds before the zeros at its end.
fn written(page: Option<&Page>) -> &[u8] {
    match page {
        Some(Page::Data(bytes)) => bytes,
        Some(Page::Allocated | Page::Hole) | None => &[],
    }
}

/// Whether two pages are equal when both are filled up with zeros.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let both = a.len().min(b.len());
    let rest = a[both..].iter().chain(&b[both..]);
    a[..both] == b[..both] && rest.copied().all(|byte| byte == 0)
}

/// Page numbers that `[start, end)` touches.
fn pages_of(start: u64, end: u64) -> Range<u64> {
    start / PAGE..end.div_ceil(PAGE)
}

/// A length that is at most one page.
#[expect(
    clippy::cast_possible_truncation,
    reason = "at most PAGE, or the length of a buffer"
)]
fn small(length: u64) -> usize {
    length as usize
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

    /// Pages this file takes from the branch's limit.
    pub(crate) fn counted(&self) -> u64 {
        self.counted
    }

    pub(crate) fn blocks(&self) -> u64 {
        let below = self
            .base
            .as_ref()
            .map_or(0, |base| base.len.div_ceil(PAGE) - base.covered);
        (self.counted + below) * PAGE_BLOCKS
    }

    /// Whether it holds just what the lower file held.
    pub(crate) fn is_only_base(&self) -> bool {
        let is_whole = |base: &Base| (base.len, base.stamp.size) == (self.size, self.size);
        self.pages.len() == 0 && self.base.as_deref().is_some_and(is_whole)
    }

    /// The lower file that some of the bytes still come from, as it was.
    pub(crate) fn needs(&self) -> Option<Stamp> {
        let base = self.base.as_ref()?;
        (base.covered < base.len.div_ceil(PAGE)).then_some(base.stamp)
    }

    /// Whether the two certainly hold the same bytes. A lower file is not read for it.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        let bases = match (&self.base, &other.base) {
            (None, None) => true,
            (Some(a), Some(b)) => a.len == b.len && a.stamp.has_bytes_of(&b.stamp),
            _ => false,
        };
        if self.size != other.size || !bases {
            return false;
        }
        let below = self.base.as_ref().map_or(0, |base| base.len.div_ceil(PAGE));
        let mut same = true;
        crate::trie::diff(&self.pages, &other.pages, &mut |page, old, new| {
            same &= match (old, new) {
                (Some(Page::Data(a)), Some(Page::Data(b))) if Arc::ptr_eq(a, b) => true,
                (Some(_), Some(_)) => same_bytes(written(old), written(new)),
                // The one shows the lower file there.
                _ if page < below => false,
                _ => same_bytes(written(old), written(new)),
            };
        });
        same
    }

    /// Reads up to the end of the file; gives how many bytes. A lower file that was cut meanwhile
    /// ends where it ends now.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8], base: ReadBase<'_>) -> Result<usize> {
        let end = self.size.min(offset.saturating_add(buffer.len() as u64));
        let mut at = offset;
        while at < end {
            let stop = end.min(self.run_end(at / PAGE));
            let part = &mut buffer[small(at - offset)..small(stop - offset)];
            let read = self.read_run(at, part, base)?;
            if read < part.len() {
                return Ok(small(at - offset) + read);
            }
            at = stop;
        }
        Ok(small(end.saturating_sub(offset)))
    }

    /// Where what begins at this page ends: a page of the branch by itself, and all that lies before
    /// the next one together, so that the host is asked once.
    fn run_end(&self, page: u64) -> u64 {
        if self.pages.get(page).is_some() {
            return (page + 1) * PAGE;
        }
        let next = self.pages.range_from(page).next();
        next.map_or(u64::MAX, |(next, _)| next * PAGE)
    }

    /// Fills `part` with bytes at `at`, which lie in one run; gives how many there are.
    fn read_run(&self, at: u64, part: &mut [u8], base: ReadBase<'_>) -> Result<usize> {
        let from = small(at % PAGE);
        match (self.pages.get(at / PAGE), &self.base) {
            (Some(Page::Data(bytes)), _) => {
                let have = bytes.get(from..).unwrap_or(&[]);
                let n = have.len().min(part.len());
                part[..n].copy_from_slice(&have[..n]);
                part[n..].fill(0);
            }
            (None, Some(below)) if at < below.len => {
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

    /// How many pages a write to `[start, end)` would add.
    pub(crate) fn new_pages(&self, start: u64, end: u64) -> u64 {
        pages_of(start, end)
            .filter(|page| !self.pages.get(*page).is_some_and(Page::is_counted))
            .count() as u64
    }

    /// Brings up what a later write to, or punch of, `[start, end)` keeps of the lower file's bytes:
    /// the only part of it that can fail.
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
            if self.pages.get(page).is_none() && page * PAGE < below {
                let mut bytes = vec![0; small((below - page * PAGE).min(PAGE))];
                if self.read_run(page * PAGE, &mut bytes, base)? < bytes.len() {
                    return Err(Errno::ESTALE);
                }
                self.put(page, Page::Data(Arc::new(bytes)));
            }
        }
        Ok(())
    }

    fn put(&mut self, page: u64, content: Page) {
        self.counted += u64::from(content.is_counted());
        match self.pages.insert(page, content) {
            Some(old) => self.counted -= u64::from(old.is_counted()),
            None => self.cover(page, true),
        }
    }

    fn take(&mut self, page: u64) {
        if let Some(old) = self.pages.remove(page) {
            self.counted -= u64::from(old.is_counted());
            self.cover(page, false);
        }
    }

    fn cover(&mut self, page: u64, covered: bool) {
        if let Some(base) = &mut self.base
            && page < base.len.div_ceil(PAGE)
        {
            base.covered = if covered {
                base.covered + 1
            } else {
                base.covered - 1
            };
        }
    }

    /// Writes; needs [`prepare`](Self::prepare) of the range.
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
        if let Some(Page::Data(bytes)) = self.pages.get_mut(page) {
            if part.len() < PAGE_LEN || Arc::get_mut(bytes).is_some() {
                overwrite(Arc::make_mut(bytes), from, part);
            } else {
                *bytes = Arc::new(part.to_vec());
            }
            return;
        }
        let mut bytes = Vec::new();
        overwrite(&mut bytes, from, part);
        self.put(page, Page::Data(Arc::new(bytes)));
    }

    /// Sets the size. A cut page's rest is forgotten, so that growing again shows zeros.
    pub(crate) fn resize(&mut self, size: u64) {
        if size <= self.size {
            // Also when it stays: pages allocated beyond the end go.
            self.cut(size);
        }
        self.size = size;
    }

    fn cut(&mut self, size: u64) {
        let keep = size.div_ceil(PAGE);
        if keep == 0 {
            self.pages = Trie::default();
            self.counted = 0;
            self.base = None;
            return;
        }
        let gone: Vec<u64> = self.pages.range_from(keep).map(|(page, _)| page).collect();
        for page in gone {
            self.take(page);
        }
        if !size.is_multiple_of(PAGE)
            && let Some(Page::Data(bytes)) = self.pages.get_mut(keep - 1)
        {
            Arc::make_mut(bytes).truncate(small(size % PAGE));
        }
        if let Some(base) = &mut self.base {
            base.len = base.len.min(size);
        }
    }

    /// Makes every page of the range take room, without changing a byte.
    pub(crate) fn allocate(&mut self, start: u64, end: u64) {
        let below = self.base.as_ref().map_or(0, |base| base.len.div_ceil(PAGE));
        for page in pages_of(start, end) {
            match self.pages.get(page) {
                None if page >= below => self.put(page, Page::Allocated),
                Some(Page::Hole) => self.put(page, Page::Allocated),
                // As on tmpfs, what is allocated twice counts as data from then on.
                Some(Page::Allocated) => self.put(page, Page::Data(Arc::default())),
                _ => {}
            }
        }
    }

    /// Makes the range zero and gives whole pages back; needs [`prepare`](Self::prepare).
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
        let below = self.base.as_ref().map_or(0, |base| base.len.div_ceil(PAGE));
        for page in whole.start..whole.end.min(below) {
            self.put(page, Page::Hole);
        }
        let own: Vec<u64> = self
            .pages
            .range_from(whole.start.max(below))
            .map(|(page, _)| page)
            .take_while(|page| *page < whole.end)
            .collect();
        for page in own {
            self.take(page);
        }
    }

    fn zero(&mut self, page: u64, from: usize, len: usize) {
        if let Some(Page::Data(bytes)) = self.pages.get_mut(page) {
            let bytes = Arc::make_mut(bytes);
            let end = bytes.len().min(from + len);
            if let Some(range) = bytes.get_mut(from..end) {
                range.fill(0);
            }
        }
    }

    /// The first offset not before `offset` that holds data, or a hole when `data` is false. The
    /// end of the file counts as a hole; there is no data at or after it.
    pub(crate) fn seek(&self, offset: u64, data: bool, base: SeekBase<'_>) -> Result<Option<u64>> {
        let mut at = offset;
        while at < self.size {
            let (page, stop) = (at / PAGE, self.size.min(self.run_end(at / PAGE)));
            match (self.pages.get(page), &self.base) {
                (Some(own), _) if matches!(own, Page::Data(_)) == data => return Ok(Some(at)),
                (Some(_), _) => {}
                (None, Some(below)) if at < below.len => {
                    let stop = stop.min(below.len);
                    if let Some(found) = base(&below.stamp, at, data)?
                        && found < stop
                    {
                        return Ok(Some(found.max(at)));
                    }
                    at = stop;
                    continue;
                }
                (None, _) if !data => return Ok(Some(at)),
                (None, _) => {}
            }
            at = stop;
        }
        Ok((!data && offset < self.size).then_some(self.size))
    }

    /// The next bytes at or after `from` that may be other than zero, as far as the branch and the
    /// lower file know of holes.
    pub(crate) fn next_data(&self, from: u64, base: SeekBase<'_>) -> Result<Option<Range<u64>>> {
        let Some(start) = self.seek(from, true, base)? else {
            return Ok(None);
        };
        let end = self.seek(start, false, base)?.unwrap_or(self.size);
        Ok(Some(start..end))
    }
}

/// Puts `part` into a page's bytes, growing them to at most a page.
fn overwrite(bytes: &mut Vec<u8>, from: usize, part: &[u8]) {
    let end = from + part.len();
    if end > bytes.capacity() {
        let capacity = end.next_power_of_two().min(PAGE_LEN);
        bytes.reserve_exact(capacity - bytes.len());
    }
    if from == bytes.len() {
        bytes.extend_from_slice(part);
        return;
    }
    if end > bytes.len() {
        bytes.resize(end, 0);
    }
    bytes[from..end].copy_from_slice(part);
}
