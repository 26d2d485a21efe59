//! Writing into a file, and punching holes.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use super::{File, PAGE, Piece, len_of, pages_of};
use crate::model::errno::Result;
use crate::store::extents::Extents;

/// A file that grows piece by piece gets extents that are as large as the last one and at most
/// this, so that it does not fall into as many pieces as there were writes.
const MOST_AHEAD: u64 = 1 << 20;

impl File {
    /// Writes bytes; the lower file must have been brought up. If it fails, nothing has changed but
    /// for bytes that this call was to overwrite.
    pub(crate) fn write(&mut self, extents: &Arc<Extents>, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset + data.len() as u64;
        if !self.write_in_place(offset, data)? {
            self.write_anew(extents, offset, data)?;
        }
        self.size = self.size.max(end);
        Ok(())
    }

    /// Writes into an extent that belongs to this file alone; returns whether there is one.
    fn write_in_place(&mut self, offset: u64, data: &[u8]) -> Result<bool> {
        let end = offset + data.len() as u64;
        let Some((first, piece)) = self.pieces.writable(offset, end) else {
            return Ok(false);
        };
        let at = offset - first * PAGE;
        piece.extent.write(piece.skip + at, &[IoSlice::new(data)])?;
        let len = at + data.len() as u64;
        if len > piece.len {
            let pages = first..first + len.div_ceil(PAGE);
            self.recount(pages, |file, _| file.pieces.grow(first, len));
        }
        Ok(true)
    }

    /// Writes whole pages into a new extent, which takes the place of what the file has there.
    fn write_anew(&mut self, extents: &Arc<Extents>, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset + data.len() as u64;
        let pages = pages_of(offset, end);
        let head = self.bytes(pages.start * PAGE..offset)?;
        let tail = self.bytes(end..self.valid_until(pages.end - 1).max(end))?;
        let len = (head.len() + data.len() + tail.len()) as u64;
        let extent = extents.allocate(len.max(self.room_ahead(offset)))?;
        let parts = [&head, data, &tail].map(IoSlice::new);
        extent.write(0, &parts)?;
        let piece = Piece {
            extent: Arc::new(extent),
            skip: 0,
            len,
        };
        self.recount(pages, |file, pages| {
            file.pieces.cut_out(pages.clone());
            file.pieces.put(pages.start, piece);
        });
        Ok(())
    }

    /// Returns how large an extent is to be whose bytes begin at `offset`, if they follow others.
    fn room_ahead(&self, offset: u64) -> u64 {
        let before = self.pieces.from((offset / PAGE).saturating_sub(1));
        let before = before.filter(|(first, piece)| first * PAGE + piece.len == offset);
        let len = before.map_or(0, |(_, piece)| piece.len);
        if len < PAGE {
            0
        } else {
            (2 * len).min(MOST_AHEAD)
        }
    }

    /// Returns the bytes in a range, which lies in one page.
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len_of(range.end - range.start)];
        if let Some((first, piece)) = self.pieces.from(range.start / PAGE)
            && first <= range.start / PAGE
            && !bytes.is_empty()
        {
            piece.read(range.start - first * PAGE, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Returns where the bytes end that are in a page.
    fn valid_until(&self, page: u64) -> u64 {
        match self.pieces.from(page) {
            Some((first, piece)) if first <= page => {
                (first * PAGE + piece.len).min((page + 1) * PAGE)
            }
            _ => 0,
        }
    }

    /// Makes the range zero and gives whole pages back; the lower file must have been brought up.
    pub(crate) fn punch(&mut self, extents: &Arc<Extents>, start: u64, end: u64) -> Result<()> {
        let whole = start.div_ceil(PAGE)..end / PAGE;
        if whole.start > whole.end {
            return self.zero(extents, start..end);
        }
        self.zero(extents, start..whole.start * PAGE)?;
        self.zero(extents, whole.end * PAGE..end)?;
        self.replace(whole, None);
        Ok(())
    }

    /// Overwrites the bytes that are in a range, which lies in one page.
    fn zero(&mut self, extents: &Arc<Extents>, range: Range<u64>) -> Result<()> {
        let end = range.end.min(self.valid_until(range.start / PAGE));
        if range.start >= end {
            return Ok(());
        }
        let size = self.size;
        let zeros = vec![0; len_of(end - range.start)];
        let written = self.write(extents, range.start, &zeros);
        self.size = size;
        written
    }

    /// Adds bytes of the lower file: `fill` writes them into an extent and returns how many there
    /// were. The range begins at a page, and nothing is there yet.
    pub(crate) fn bring_up(
        &mut self,
        extents: &Arc<Extents>,
        range: Range<u64>,
        fill: impl FnOnce(&crate::store::extents::Extent) -> Result<u64>,
    ) -> Result<u64> {
        let extent = extents.allocate(range.end - range.start)?;
        let len = fill(&extent)?.min(range.end - range.start);
        if len > 0 {
            let piece = Piece {
                extent: Arc::new(extent),
                skip: 0,
                len,
            };
            let pages = range.start / PAGE..range.start / PAGE + piece.pages();
            self.recount(pages, |file, pages| file.pieces.put(pages.start, piece));
        }
        Ok(len)
    }
}
