//! Reads a segment a window at a time.

use std::sync::Arc;

use super::StoreId;
use super::format::{
    Header, NUMBER_AT, NoHeader, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, Seal,
};
use crate::disk::directory::NamedFile;
use crate::model::errno::Result;

/// How many bytes are read at least.
const WINDOW: usize = 1 << 18;

/// Reads records of one file. The bytes come from a disk, so that any of them can be anything.
#[derive(Debug)]
pub(super) struct Reader {
    file: Arc<dyn NamedFile>,
    seal: Seal,
    window: Vec<u8>,
    window_at: u64,
}

impl Reader {
    pub(super) fn new(file: Arc<dyn NamedFile>, store: StoreId) -> Self {
        Self {
            file,
            seal: Seal::new(store),
            window: Vec::new(),
            window_at: 0,
        }
    }

    pub(super) fn header(&mut self, store: StoreId) -> Result<Result<Header, NoHeader>> {
        let bytes = self.bytes(0, SEGMENT_HEADER)?;
        Ok(Header::decode(bytes, store))
    }

    /// Returns the record at an offset with its payload, if one lies there.
    pub(super) fn record(&mut self, at: u64) -> Result<Option<(RecordHeader, &[u8])>> {
        let Some(head) = RecordHeader::decode(self.bytes(at, RECORD_HEADER)?) else {
            return Ok(None);
        };
        let seal = self.seal.clone();
        let bytes = self.bytes(at, RECORD_HEADER + head.len)?;
        let payload = bytes.get(RECORD_HEADER..).unwrap_or_default();
        Ok(seal.fits(&head, payload).then_some((head, payload)))
    }

    /// Returns the offset of the first record from `at` on whose number is above `above`, wherever
    /// it begins. Nothing is known about the bytes before it.
    pub(super) fn find_record(&mut self, mut at: u64, above: u64) -> Result<Option<u64>> {
        // A segment has fewer records than bytes.
        let numbers = above + 1..=above.saturating_add(self.file.len()?);
        loop {
            let window = self.bytes(at, WINDOW)?;
            if window.len() < RECORD_HEADER {
                return Ok(None);
            }
            let step = window.len() - RECORD_HEADER + 1;
            // The number is looked at first, because hardly ever is one that is possible.
            let at_number = window.get(NUMBER_AT..).unwrap_or_default();
            let starts = at_number.windows(size_of::<u64>()).take(step).enumerate();
            let likely: Vec<u64> = starts
                .filter(|(_, bytes)| {
                    let number = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                    number.is_some_and(|number| numbers.contains(&number))
                })
                .map(|(start, _)| at + start as u64)
                .collect();
            for start in likely {
                if self.record(start)?.is_some() {
                    return Ok(Some(start));
                }
            }
            at += step as u64;
        }
    }

    /// Returns so many bytes, and fewer at the end of the file.
    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let start = at.checked_sub(self.window_at);
        let start = start.and_then(|start| usize::try_from(start).ok());
        let is_here = start.is_some_and(|start| {
            start
                .checked_add(len)
                .is_some_and(|end| end <= self.window.len())
        });
        let start = match start {
            Some(start) if is_here => start,
            _ => {
                let left = self.file.len()?.saturating_sub(at);
                let left = usize::try_from(left).unwrap_or(usize::MAX);
                self.window.resize(len.max(WINDOW).min(left), 0);
                let read = self.file.read_at(&mut self.window, at)?;
                self.window.truncate(read);
                self.window_at = at;
                0
            }
        };
        let end = (start + len).min(self.window.len());
        Ok(&self.window[start..end])
    }
}
