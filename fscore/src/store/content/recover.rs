//! What a file has, part by part: to be written to the log, and to be read from it.

use std::ops::Range;
use std::sync::Arc;

use super::{File, Marked, Piece};
use crate::model::stamp::Stamp;
use crate::store::extents::Extent;

/// Bytes of a file that lie in one extent.
#[derive(Debug)]
pub(crate) struct Part {
    /// The first page.
    pub(crate) first: u64,
    pub(crate) extent: Arc<Extent>,
    /// Where the bytes begin in the extent.
    pub(crate) skip: u64,
    /// How many there are.
    pub(crate) len: u64,
}

impl File {
    /// Returns the pages in which pieces or marks were changed since the last call. No piece lies
    /// in them only in part.
    pub(crate) fn take_changed(&mut self) -> Option<Range<u64>> {
        let changed = std::mem::take(&mut self.changed);
        (!changed.is_empty()).then_some(changed)
    }

    /// Returns whether [`take_changed`](Self::take_changed) would return something.
    pub(crate) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Adds pages to those that were changed, with all of each piece that touches them.
    pub(super) fn mark_changed(&mut self, pages: Range<u64>) {
        if pages.is_empty() {
            return;
        }
        let (mut start, mut end) = (pages.start, pages.end);
        if let Some((first, _)) = self.pieces.from(start) {
            start = start.min(first);
        }
        if let Some((first, piece)) = self.pieces.from(end.saturating_sub(1))
            && first < end
        {
            end = end.max(first + piece.pages());
        }
        if self.changed.is_empty() {
            self.changed = start..end;
        } else {
            self.changed.start = self.changed.start.min(start);
            self.changed.end = self.changed.end.max(end);
        }
    }

    /// Returns the marks in a range of pages, cut to it, and the pieces that begin in it.
    pub(crate) fn parts(&self, range: Range<u64>) -> (Vec<Marked>, Vec<Part>) {
        let marks = self.marks.within(range.clone()).collect();
        let pieces = self.pieces.within(range);
        let part = |(pages, piece): (Range<u64>, &Piece)| Part {
            first: pages.start,
            extent: piece.extent.clone(),
            skip: piece.skip,
            len: piece.len,
        };
        (marks, pieces.map(part).collect())
    }

    /// Returns the pages in which two files have other pieces or marks.
    pub(crate) fn differing_pages(&self, other: &Self) -> Option<Range<u64>> {
        let same_marks = self
            .marks
            .within(0..u64::MAX)
            .eq(other.marks.within(0..u64::MAX));
        let same_pieces = self.pieces.differing(&other.pieces).is_empty();
        (!same_marks || !same_pieces).then_some(0..u64::MAX)
    }

    /// Sets the size, which lower file is all of the content, and whether the pieces hold that.
    pub(crate) fn recover(&mut self, size: u64, lower: Option<Stamp>, is_kept: bool) {
        self.size = size;
        self.is_kept = is_kept;
        self.lower = lower.map(Box::new);
    }

    /// Puts marks and pieces in place of all that the file has in a range; returns whether they lie
    /// in it, in order and apart.
    pub(crate) fn recover_parts(
        &mut self,
        range: Range<u64>,
        marks: Vec<Marked>,
        pieces: Vec<Part>,
    ) -> bool {
        let last_page = u64::MAX / super::PAGE;
        let mut at = range.start;
        for part in &pieces {
            let end = part.first.saturating_add(part.len.div_ceil(super::PAGE));
            if part.first < at || end > range.end || end > last_page {
                return false;
            }
            at = end;
        }
        let mut at = range.start;
        for (pages, _) in &marks {
            if pages.start < at || pages.is_empty() || pages.end > range.end {
                return false;
            }
            at = pages.end;
        }
        self.recount(range, |file, range| {
            file.pieces.cut_out(range.clone());
            for part in pieces {
                let Part {
                    first,
                    extent,
                    skip,
                    len,
                } = part;
                file.pieces.put(first, Piece { extent, skip, len });
            }
            file.marks.replace(range, marks);
        });
        self.changed = 0..0;
        true
    }
}
