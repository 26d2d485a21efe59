//! The write-ahead log of a store: one record for each change, written before the operation returns.
//!
//! The log lies in segments, files of which each begins where the one before ends. The last is
//! written to, and those before a checkpoint are removed. docs/store-format.md describes every byte.
//!
//! What is promised:
//!
//! - When the process ends in whatever way, no record is lost for which [`Log::append`] returned.
//! - When the machine loses its power, the records that [`Log::sync`] returned for are there, with
//!   the content they refer to, and after them possibly some of those that followed, without a gap.
//! - A full disk is noticed in [`Log::reserve`], before an operation begins. Operations that free
//!   space have some room left then.
//! - A log that the disk has failed once is read-only from then on: nobody knows what of the failed
//!   write is there, and after what.
//!
//! A process that ends leaves what it wrote to the kernel, but a power cut may keep any part of what
//! was not synced. So each segment names the start of the machine in which it was written. After
//! another start, records count only up to the last marker, by which a sync says which content had
//! reached the disk.

mod begin;
mod format;
mod reader;
mod recovery;
mod rounds;
mod tail;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock};

use self::format::{
    CONTINUES, IS_CONTINUED, MAX_PAYLOAD, Marker, NEXT_SEGMENT, RECORD_HEADER, SEGMENT_HEADER, Seal,
};
use self::rounds::Rounds;
use self::tail::{Tail, is_full};
use crate::model::errno::{Errno, Result};
use crate::sync::Mutex;

pub(crate) use self::format::{Boot, MOST_RECORDS, is_segment, segment_name};
#[cfg(test)]
pub(crate) use self::recovery::Damage;
pub(crate) use self::recovery::{LogError, Place, Record, Recovery};

/// The number of a store: 16 random bytes. A log of another store is never taken for its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreId(pub(crate) [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// What kind of change a record holds. The log gives it no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(u8);

impl Kind {
    /// Returns the kind with a number from 1 to 63.
    pub(crate) const fn new(number: u8) -> Self {
        assert!(number > 0 && number < 64, "a kind is from 1 to 63");
        Self(number)
    }

    /// Returns the kind with that number, if there is one.
    pub(crate) fn of_number(number: u8) -> Option<Self> {
        (number > 0 && number < 64).then_some(Self(number))
    }

    fn from_bits(bits: u8) -> Option<Self> {
        (bits != Marker::KIND).then_some(Self(bits))
    }

    pub(crate) fn number(self) -> u8 {
        self.0
    }
}

/// What an operation wants room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Ordinary,
    /// The operation gives space back, so it may use the room that is spared for that.
    Freeing,
}

/// How much room is taken, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// The room of an operation. A longer record is split, and the rest of its room is found before
    /// any part of it is written.
    pub(crate) room: u64,
    /// How much is taken from the disk at a time.
    pub(crate) step: u64,
    /// What is left on a full disk for operations that free space.
    pub(crate) spare: u64,
    /// How much more is there, but on a nearly full disk, for records that are longer than the room of
    /// their operations.
    pub(crate) ample: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            room: 64 << 10,
            step: 4 << 20,
            spare: 1 << 20,
            ample: 1 << 20,
        }
    }
}

impl Sizes {
    /// Returns how much of a payload goes into one record.
    fn part(&self) -> usize {
        let room = usize::try_from(self.room).unwrap_or(usize::MAX);
        room.saturating_sub(RECORD_HEADER).clamp(1, MAX_PAYLOAD)
    }

    /// Returns how many bytes a payload takes in the log, with the headers of its parts.
    fn of_record(&self, payload: &[u8]) -> u64 {
        let parts = payload.len().div_ceil(self.part()).max(1);
        (payload.len() + parts * RECORD_HEADER) as u64
    }
}

/// The files that records refer to.
pub(crate) trait Content: fmt::Debug + Send + Sync {
    /// Calls `count`, which counts the records so far, while no operation is between its change of
    /// the files and its record. The sync that follows may take bytes to the disk that later
    /// operations write; those must not overwrite what these records refer to.
    fn count_records(&self, count: &mut dyn FnMut());

    /// Syncs them, if anything was written since the last time.
    fn sync(&self) -> Result<()>;

    /// Says that the records counted last, and what they refer to, survive a power cut: what only
    /// earlier records refer to is needed no longer.
    fn covered(&self);
}

/// Why a log takes no more changes.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// What could not be done.
    pub(crate) what: &'static str,
    pub(crate) errno: Errno,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, errno } = self;
        write!(
            f,
            "the disk failed to {what} ({errno}), so the store takes no more changes: see to the disk, \
             and start the daemon again"
        )
    }
}

/// A log that is open for writing. All calls may come from several threads.
#[derive(Debug)]
pub(crate) struct Log {
    place: Place,
    content: Arc<dyn Content>,
    sizes: Sizes,
    seal: Seal,
    tail: Mutex<Tail>,
    rounds: Rounds,
    failure: OnceLock<Failure>,
}

/// The room of one operation, found before it began.
#[derive(Debug)]
#[must_use]
pub(crate) struct Room<'l> {
    log: &'l Log,
    held: u64,
    is_ample: bool,
}

impl Room<'_> {
    /// Returns whether a record that is longer than the room will most likely find some. Otherwise the
    /// disk is nearly full, and the operation has to be one that can be taken back.
    pub(crate) fn is_ample(&self) -> bool {
        self.is_ample
    }

    fn give_back(&mut self, tail: &mut Tail) {
        tail.held -= std::mem::take(&mut self.held);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.held > 0 {
            let log = self.log;
            self.give_back(&mut log.tail.lock());
        }
    }
}

impl Log {
    /// Finds room for one operation, before it begins.
    ///
    /// # Errors
    ///
    /// `ENOSPC`, `EDQUOT` or `EFBIG` if there is no room, `EROFS` after a failure of the disk.
    pub(crate) fn reserve(&self, purpose: Purpose) -> Result<Room<'_>> {
        self.is_writable()?;
        let mut tail = self.tail.lock();
        tail.make_room(&self.sizes, purpose, self.sizes.room)?;
        tail.held += self.sizes.room;
        Ok(Room {
            log: self,
            held: self.sizes.room,
            is_ample: tail.is_ample(&self.sizes),
        })
    }

    /// Appends a record and returns its number, by which records are ordered. A record that is
    /// longer than the room is there as a whole or, after an error, not at all.
    ///
    /// # Errors
    ///
    /// `ENOSPC` or `EDQUOT` if a record that is longer than its room finds the disk full; the error
    /// of the disk at its first failure, and `EROFS` after it.
    pub(crate) fn append(&self, mut room: Room<'_>, kind: Kind, payload: &[u8]) -> Result<u64> {
        let mut tail = self.tail.lock();
        let tail = &mut *tail;
        // The failure may have come after the room was found.
        let found = self.is_writable().and_then(|()| {
            // Parts of a record that does not fit as a whole would take room at each new try.
            match self.sizes.of_record(payload).saturating_sub(room.held) {
                0 => Ok(()),
                // What the operation has changed is changed: it may take the room that is spared.
                more => tail.make_room(&self.sizes, Purpose::Freeing, more),
            }
        });
        room.give_back(tail);
        found?;
        let part = self.sizes.part();
        let (first, mut rest) = payload.split_at(part.min(payload.len()));
        let goes_on = |rest: &[u8]| if rest.is_empty() { 0 } else { IS_CONTINUED };
        self.write(tail, kind.0 | goes_on(rest), first)?;
        while !rest.is_empty() {
            let (next, after) = rest.split_at(part.min(rest.len()));
            rest = after;
            self.write(tail, kind.0 | CONTINUES | goes_on(rest), next)?;
        }
        tail.appended = tail.next;
        Ok(tail.next - 1)
    }

    fn write(&self, tail: &mut Tail, kind: u8, payload: &[u8]) -> Result<()> {
        let written = tail.write(&self.seal, kind, payload);
        written.map_err(|errno| match is_full(errno) {
            true => errno,
            false => self.fail("write a record", errno),
        })
    }

    /// Waits until all records so far, and the content they refer to, survive a power cut. Threads
    /// that wait at the same time share the work.
    ///
    /// # Errors
    ///
    /// The error of the disk at its first failure, and `EIO` after it; `ENOSPC` or `EDQUOT` if the
    /// disk is so full that there is no room for a marker.
    pub(crate) fn sync(&self) -> Result<()> {
        if self.failure.get().is_some() {
            // Branches may show a change that could not be written, so nothing is said to be there.
            return Err(Errno::EIO);
        }
        if self.is_durable() {
            return Ok(());
        }
        self.sync_all()
    }

    /// Waits as [`sync`](Self::sync) does, also for content that no record refers to yet.
    ///
    /// # Errors
    ///
    /// Those of [`sync`](Self::sync).
    pub(crate) fn sync_all(&self) -> Result<()> {
        self.rounds.join(|| self.sync_round())
    }

    fn sync_round(&self) -> Result<()> {
        if self.failure.get().is_some() {
            return Err(Errno::EIO);
        }
        let mut covered = 0;
        self.content
            .count_records(&mut || covered = self.tail.lock().next);
        let failed = |what| move |errno| self.fail(what, errno);
        self.content
            .sync()
            .map_err(failed("sync the content of files"))?;
        let (files, are_names_unsynced) = {
            let mut tail = self.tail.lock();
            if self.failure.get().is_some() {
                return Err(Errno::EIO);
            }
            if !tail.has_room_for_marker() {
                tail.make_room(&self.sizes, Purpose::Freeing, self.sizes.room)?;
            }
            let durable = tail.durable;
            let marker = Marker { covered, durable };
            self.write(&mut tail, Marker::KIND, &marker.encode())?;
            let mut files = std::mem::take(&mut tail.unsynced);
            files.push(Arc::clone(&tail.file));
            let names = std::mem::take(&mut tail.are_names_unsynced);
            (files, names)
        };
        for file in files {
            file.sync().map_err(failed("sync the log"))?;
        }
        if are_names_unsynced {
            self.sync_names()?;
        }
        {
            let mut tail = self.tail.lock();
            tail.durable = tail.durable.max(covered);
        }
        self.content.covered();
        Ok(())
    }

    /// Returns whether everything that was changed is in the log and survives a power cut.
    pub(crate) fn is_durable(&self) -> bool {
        let tail = self.tail.lock();
        // After a failure branches may show a change that could not be written.
        self.failure.get().is_none() && tail.durable >= tail.appended
    }

    /// Begins a segment and returns the number of its first record: a checkpoint holds all before
    /// it. After an error the log goes on in the old segment.
    ///
    /// # Errors
    ///
    /// Those of [`reserve`](Self::reserve).
    pub(crate) fn rotate(&self) -> Result<u64> {
        self.is_writable()?;
        let mut tail = self.tail.lock();
        let tail = &mut *tail;
        if tail.next == tail.first {
            return Ok(tail.first);
        }
        let Sizes { step, spare, .. } = self.sizes;
        let len = SEGMENT_HEADER as u64 + tail.held + spare + step;
        let file = match self.place.prepare(tail.next, tail.durable, len) {
            Ok(file) => file,
            Err(errno) => {
                // The room that it has taken is needed. If it stays, the next one replaces it.
                let _unused: Result<()> = self.place.directory.remove(NEXT_SEGMENT);
                return Err(errno);
            }
        };
        let name = segment_name(tail.next);
        let renamed = self.place.directory.rename(NEXT_SEGMENT, &name);
        // If the new name is there after all, records in the old segment are behind its end.
        renamed.map_err(|errno| self.fail("begin a file of the log", errno))?;
        let old = std::mem::replace(&mut tail.file, file);
        // This only gives unused room back, and the log is as good without.
        let _unused: Result<()> = old.set_len(tail.end);
        tail.unsynced.push(old);
        tail.are_names_unsynced = true;
        tail.older.push(tail.first);
        tail.older_bytes += tail.end;
        tail.first = tail.next;
        tail.end = SEGMENT_HEADER as u64;
        tail.allocated = len;
        tail.full_until = 0;
        Ok(tail.first)
    }

    /// Removes the segments with records below `number` alone, for which a checkpoint that is on
    /// disk has taken over.
    ///
    /// # Errors
    ///
    /// Those of the disk; what could not be removed is removed the next time.
    pub(crate) fn forget_before(&self, number: u64) -> Result<()> {
        let old: Vec<u64> = {
            let tail = self.tail.lock();
            let ends = tail.older.iter().skip(1).chain([&tail.first]);
            let ended = tail.older.iter().zip(ends);
            ended
                .take_while(|(_, end)| **end <= number)
                .map(|(first, _)| *first)
                .collect()
        };
        if old.is_empty() {
            return Ok(());
        }
        // The segment that follows must not be lost before those are.
        self.sync_names()?;
        for first in old {
            match self.place.directory.remove(&segment_name(first)) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
            self.tail.lock().older.retain(|it| *it != first);
        }
        let mut tail = self.tail.lock();
        if tail.older.is_empty() {
            tail.older_bytes = 0;
        }
        Ok(())
    }

    /// Waits until the names of the store's files survive a power cut.
    ///
    /// # Errors
    ///
    /// That of the disk. The log takes no more changes then: the name of a segment may be among
    /// those that no later sync writes any more.
    pub(crate) fn sync_names(&self) -> Result<()> {
        let synced = self.place.directory.sync_names();
        synced.map_err(|errno| self.fail("sync the names of the store's files", errno))
    }

    /// Returns how many bytes a restart would read beside the last checkpoint: those of the current
    /// segment, and those of the segments before it if the checkpoint that began it failed.
    pub(crate) fn backlog(&self) -> u64 {
        let tail = self.tail.lock();
        tail.older_bytes + tail.end
    }

    /// Returns how many bytes the room of an operation has.
    pub(crate) fn room(&self) -> u64 {
        self.sizes.room
    }

    /// Returns how many bytes the segments take on the disk, with the room that was taken beforehand.
    pub(crate) fn on_disk(&self) -> u64 {
        let tail = self.tail.lock();
        tail.older_bytes + tail.allocated
    }

    /// Returns how many bytes the current segment has.
    #[cfg(test)]
    fn size(&self) -> u64 {
        self.tail.lock().end
    }

    /// Returns why the log takes no more changes, if it does not.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    fn is_writable(&self) -> Result<()> {
        match self.failure.get() {
            None => Ok(()),
            Some(_) => Err(Errno::EROFS),
        }
    }

    /// Keeps the reason why the log takes no more changes. The first one counts.
    fn fail(&self, what: &'static str, errno: Errno) -> Errno {
        drop(self.failure.set(Failure { what, errno }));
        errno
    }
}
