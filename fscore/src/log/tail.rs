//! The end of a log: the segment to which records are appended, and its room.

use std::io::IoSlice;
use std::sync::Arc;

use super::format::{Marker, RECORD_HEADER, Seal};
use super::{Purpose, Sizes};
use crate::disk::directory::NamedFile;
use crate::model::errno::{Errno, Result};

/// What is known about the end of the log, under its lock.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) file: Arc<dyn NamedFile>,
    /// The number of the segment's first record.
    pub(super) first: u64,
    /// Where the next record goes.
    pub(super) end: u64,
    /// Up to where the disk has given room.
    pub(super) allocated: u64,
    /// How much of that room is promised to operations that have begun.
    pub(super) held: u64,
    /// Up to where the log goes on in the room that it has, because the disk had no more.
    pub(super) full_until: u64,
    /// The number of the next record.
    pub(super) next: u64,
    /// The number after the last record that is not a marker.
    pub(super) appended: u64,
    /// All records below this number are on disk, with the content they refer to.
    pub(super) durable: u64,
    /// The files of earlier segments that the next sync has to sync as well.
    pub(super) unsynced: Vec<Arc<dyn NamedFile>>,
    pub(super) are_names_unsynced: bool,
    /// The first records of earlier segments, in order.
    pub(super) older: Vec<u64>,
    /// How many bytes those have that no checkpoint has taken over for.
    pub(super) older_bytes: u64,
}

/// Returns whether the error says that there is no room: the disk or the owner's quota is full, or
/// the file is as long as the limits of the process let it be (`RLIMIT_FSIZE`).
pub(super) fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)
}

impl Tail {
    /// Sees to it that there is room for so many bytes beside what is promised to the operations that
    /// have begun.
    pub(super) fn make_room(&mut self, sizes: &Sizes, purpose: Purpose, bytes: u64) -> Result<()> {
        let wanted = self.end + self.held + bytes;
        let with_spare = wanted + sizes.spare;
        let with_ample = with_spare + sizes.ample;
        let is_enough = with_spare <= self.allocated;
        if with_ample <= self.allocated || (is_enough && self.end < self.full_until) {
            return Ok(());
        }
        // A full disk may still have a little.
        let mut full = Errno::ENOSPC;
        for len in [with_ample + sizes.step, with_spare] {
            if len <= self.allocated {
                // It is full, and to ask it for more before each operation would be slow.
                self.full_until = self.end + sizes.room;
                return Ok(());
            }
            match self.file.allocate(self.allocated..len) {
                Ok(()) => {
                    self.allocated = len;
                    return Ok(());
                }
                Err(errno) if is_full(errno) => full = errno,
                Err(errno) => return Err(errno),
            }
        }
        let may_take_spare = purpose == Purpose::Freeing && wanted <= self.allocated;
        if may_take_spare { Ok(()) } else { Err(full) }
    }

    /// Returns whether there is room for long records beside what is promised.
    pub(super) fn is_ample(&self, sizes: &Sizes) -> bool {
        self.end + self.held + sizes.spare + sizes.ample <= self.allocated
    }

    /// Returns whether a marker fits into the room that is not promised.
    pub(super) fn has_room_for_marker(&self) -> bool {
        self.end + self.held + Marker::SIZE <= self.allocated
    }

    /// Writes one record. If the disk is full, the record is not there, and the next one takes its
    /// place.
    pub(super) fn write(&mut self, seal: &Seal, kind: u8, payload: &[u8]) -> Result<()> {
        let header = seal.header(self.next, kind, payload);
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        self.file.write_at(&parts, self.end)?;
        self.end += (RECORD_HEADER + payload.len()) as u64;
        self.next += 1;
        Ok(())
    }
}
