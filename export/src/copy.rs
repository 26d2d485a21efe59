//! Copies a file out of a branch, as sparse as it is there.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use agentfs_core::{Branch, Caller, Errno, HandleId, Seek};

use crate::content::{BLOCK, PIECE, write_sparse};
use crate::error::StepResult;
use crate::{CancelToken, ExportError};

/// A file on its way out of the branch.
pub(crate) struct Copy<'a> {
    pub(crate) branch: &'a Branch,
    pub(crate) caller: &'a Caller,
    pub(crate) stop: &'a CancelToken,
    pub(crate) handle: HandleId,
    pub(crate) file: File,
    pub(crate) bytes: u64,
    /// Why something could not be read.
    pub(crate) missing: Option<Errno>,
}

impl Copy<'_> {
    /// Copies everything that can be read.
    pub(crate) fn all(&mut self) -> StepResult {
        let size = self.branch.seek(self.handle, Seek::End(0));
        let size = size.map_err(|errno| ExportError::Branch(PathBuf::new(), errno))?;
        let mut buffer = vec![0; PIECE];
        let mut at = 0;
        while let Some(data) = self.next_data(at, size) {
            self.range(data.start, data.end, &mut buffer)?;
            at = data.end;
        }
        Ok(self.file.set_len(size)?)
    }

    /// Returns the next range that may be other than zero. Where that is unknown, it is the whole rest.
    fn next_data(&self, at: u64, size: u64) -> Option<Range<u64>> {
        if at >= size {
            return None;
        }
        match self.branch.next_data(self.handle, at) {
            Ok(found) => found,
            Err(_) => Some(at..size),
        }
    }

    fn range(&mut self, mut at: u64, end: u64, buffer: &mut [u8]) -> StepResult {
        while at < end {
            self.stop.check()?;
            let len = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let piece = buffer.get_mut(..len).unwrap_or_default();
            match self.branch.read_at(self.caller, self.handle, at, piece) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    write_sparse(&self.file, at, piece.get(..read).unwrap_or_default())?;
                    self.bytes += read as u64;
                    at += read as u64;
                }
                Err(errno) => {
                    self.missing = Some(errno);
                    self.parts(at, piece)?;
                    at += len as u64;
                }
            }
        }
        Ok(())
    }

    /// Copies what can be read of a piece that cannot be read as a whole: the pages that the branch itself
    /// has.
    fn parts(&mut self, start: u64, piece: &mut [u8]) -> StepResult {
        let mut at = start;
        for part in piece.chunks_mut(BLOCK) {
            let read = self.branch.read_at(self.caller, self.handle, at, part);
            if let Ok(read) = read {
                write_sparse(&self.file, at, part.get(..read).unwrap_or_default())?;
                self.bytes += read as u64;
            }
            at += part.len() as u64;
        }
        Ok(())
    }
}
