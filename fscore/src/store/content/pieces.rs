//! Which bytes of a file lie in which extent.

use std::ops::Range;
use std::sync::Arc;

use super::PAGE;
use crate::model::errno::Result;
use crate::store::extents::Extent;
use crate::store::trie::Trie;

/// Bytes of a file that lie in one extent. A piece begins at a page; where its last page is not
/// full, the rest of that is zeros.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) extent: Arc<Extent>,
    /// Where the bytes begin in the extent.
    pub(super) skip: u64,
    /// How many bytes there are, at least one.
    pub(super) len: u64,
}

impl Piece {
    pub(super) fn pages(&self) -> u64 {
        self.len.div_ceil(PAGE)
    }

    /// Returns how many bytes the extent has room for.
    pub(super) fn room(&self) -> u64 {
        self.extent.len() - self.skip
    }

    /// Fills a buffer with the bytes at `at`.
    pub(super) fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let have = super::len_of(self.len.saturating_sub(at).min(buffer.len() as u64));
        if have > 0 {
            self.extent.read(self.skip + at, &mut buffer[..have])?;
        }
        buffer[have..].fill(0);
        Ok(())
    }

    /// Returns the same bytes but for a range, and frees what nothing else refers to.
    fn without(self, pages: Range<u64>) -> (Option<Self>, Option<Self>) {
        let (keep, resume) = (pages.start * PAGE, pages.end.saturating_mul(PAGE));
        let Self { extent, skip, len } = self;
        let (head, tail) = (keep.min(len), len.saturating_sub(resume));
        match Arc::try_unwrap(extent) {
            // The part before `skip` has no owner any more and stays with the head.
            Ok(extent) => {
                let (before, after) = extent.cut_out(skip + keep, skip.saturating_add(resume));
                let of = |extent: Option<Extent>, skip, len| {
                    let extent = Arc::new(extent?);
                    (len > 0).then_some(Self { extent, skip, len })
                };
                (of(before, skip, head), of(after, 0, tail))
            }
            Err(extent) => {
                let of = |skip, len| {
                    let extent = extent.clone();
                    (len > 0).then_some(Self { extent, skip, len })
                };
                (of(skip, head), of(skip.saturating_add(resume), tail))
            }
        }
    }
}

/// The pieces of a file, which do not overlap.
///
/// The key is the last page of a piece, so the first entry from a page on is the piece that holds
/// the page, or the next one.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces(Trie<Piece>);

impl Pieces {
    /// Returns the piece that holds the page, or the next one, and its first page.
    pub(super) fn from(&self, page: u64) -> Option<(u64, &Piece)> {
        let (last, piece) = self.0.range_from(page).next()?;
        Some((last + 1 - piece.pages(), piece))
    }

    /// Returns the pages of each piece that touches a range, cut to the range.
    pub(super) fn within(
        &self,
        range: Range<u64>,
    ) -> impl Iterator<Item = (Range<u64>, &Piece)> + '_ {
        let Range { start, end } = range;
        let all = self.0.range_from(start);
        all.map(|(last, piece)| (last + 1 - piece.pages()..last + 1, piece))
            .take_while(move |(pages, _)| pages.start < end)
            .map(move |(pages, piece)| (pages.start.max(start)..pages.end.min(end), piece))
    }

    /// Returns the pieces of both that may differ, in pages: see [`crate::store::trie::diff`].
    pub(super) fn differing(&self, other: &Self) -> Vec<Range<u64>> {
        let mut all = Vec::new();
        crate::store::trie::diff(&self.0, &other.0, &mut |last, a, b| {
            let is_same = a.zip(b).is_some_and(|(a, b)| {
                Arc::ptr_eq(&a.extent, &b.extent) && (a.skip, a.len) == (b.skip, b.len)
            });
            if !is_same {
                all.extend(
                    [a, b]
                        .into_iter()
                        .flatten()
                        .map(|it| last + 1 - it.pages()..last + 1),
                );
            }
        });
        all
    }

    /// Adds a piece where there is none.
    pub(super) fn put(&mut self, first: u64, piece: Piece) {
        self.0.insert(first + piece.pages() - 1, piece);
    }

    /// Removes the bytes in a range of pages.
    pub(super) fn cut_out(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let touched: Vec<u64> = self
            .0
            .range_from(range.start)
            .take_while(|(last, piece)| last + 1 - piece.pages() < range.end)
            .map(|(last, _)| last)
            .collect();
        for last in touched {
            let Some(piece) = self.0.remove(last) else {
                continue;
            };
            let first = last + 1 - piece.pages();
            let start = range.start.saturating_sub(first);
            let (head, tail) = piece.without(start..range.end - first);
            if let Some(head) = head {
                self.put(first, head);
            }
            if let Some(tail) = tail {
                self.put(range.end, tail);
            }
        }
    }

    /// Forgets the bytes from `size` on in the page that holds it. Nothing lies after that page.
    pub(super) fn truncate(&mut self, size: u64) {
        let page = size / PAGE;
        let Some((first, _)) = self.from(page).filter(|(first, _)| *first <= page) else {
            return;
        };
        let last = self.0.range_from(page).next().map(|(last, _)| last);
        if let Some(piece) = last.and_then(|last| self.0.get_mut(last)) {
            piece.len = piece.len.min(size - first * PAGE);
        }
    }

    /// Returns the piece to which bytes at `start` can be written or added in place, with its first
    /// page: nothing else refers to its extent, and there is room until `end`.
    pub(super) fn writable(&mut self, start: u64, end: u64) -> Option<(u64, &mut Piece)> {
        let page = start / PAGE;
        // Bytes that no piece has are added to the piece that ends right before them.
        let (first, piece) = match self.from(page) {
            Some((first, piece)) if first <= page => (first, piece),
            _ => self.from(page.checked_sub(1)?)?,
        };
        let at = start.checked_sub(first * PAGE)?;
        if at > piece.len || end - first * PAGE > piece.room() {
            return None;
        }
        let last = first + piece.pages() - 1;
        let needed = end.div_ceil(PAGE);
        if needed > last + 1 && self.within(last + 1..needed).next().is_some() {
            return None;
        }
        // This copies what snapshots share, so that the count of references counts them.
        let piece = self.0.get_mut(last)?;
        let is_alone = Arc::strong_count(&piece.extent) == 1;
        let is_writable = piece.extent.is_writable(piece.skip + at);
        (is_alone && is_writable).then_some((first, piece))
    }

    /// Sets how many bytes a piece has, which may only become more.
    pub(super) fn grow(&mut self, first: u64, len: u64) {
        let Some((found, piece)) = self.from(first).filter(|(found, _)| *found == first) else {
            return;
        };
        let old = found + piece.pages() - 1;
        if let Some(mut piece) = self.0.remove(old) {
            piece.len = piece.len.max(len);
            self.put(first, piece);
        }
    }
}
