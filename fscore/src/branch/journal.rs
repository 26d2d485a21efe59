//! The way of a change to the log: what an operation has changed in its branch is written, as one
//! record, before the operation returns.

use std::sync::Arc;

use super::checkpoint;
use super::state::State;
use super::version_records::CHECKPOINT_PART;
pub(crate) use super::version_records::{NewVersion, OldVersion};
use crate::disk::directory::NamedFile;
use crate::log::{Content, Kind, Log, Place, Purpose, Room};
use crate::model::errno::Result;
use crate::model::id::{BaseId, BranchId, Seq, SnapshotId};
use crate::store::extents::Extents;
use crate::store::format::bytes::{Decoder, Encoder, Malformed};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, RwLockReadGuard};

/// What a record is about.
pub(super) mod kind {
    use crate::log::Kind;

    /// A branch and what has changed in it.
    pub(crate) const CHANGE: Kind = Kind::new(1);
    /// A new branch or snapshot, and how it differs from another one.
    pub(crate) const VERSION: Kind = Kind::new(2);
    /// A branch or snapshot that was deleted.
    pub(crate) const DELETED: Kind = Kind::new(3);
    /// The store has been opened: the [`Counts`](super::Counts).
    pub(crate) const OPENED: Kind = Kind::new(4);
    /// A part of a version whose record of kind [`VERSION`] or [`DATED`] follows later.
    pub(crate) const PART: Kind = Kind::new(5);
    /// When a version was made, then the same as [`VERSION`].
    pub(crate) const DATED: Kind = Kind::new(6);
    /// How many bytes the store may take on its disk.
    pub(crate) const LIMIT: Kind = Kind::new(7);
}

/// A branch, a snapshot, or what frozen ones of both are based on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum VersionId {
    Branch(BranchId),
    Snapshot(SnapshotId),
    Base(BaseId),
}

impl VersionId {
    pub(super) fn write(self, encoder: &mut Encoder) {
        match self {
            Self::Branch(id) => {
                encoder.byte(1);
                encoder.number(id.0);
            }
            Self::Snapshot(id) => {
                encoder.byte(2);
                encoder.number(id.0);
            }
            Self::Base(id) => {
                encoder.byte(3);
                encoder.number(id.0);
            }
        }
    }
}

/// The last numbers that were given; none is given again.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counts {
    /// How often the store was opened.
    pub(crate) openings: u64,
    pub(crate) branches: u64,
    pub(crate) snapshots: u64,
    /// How many nodes had a number that is not the host's.
    pub(crate) nodes: u64,
}

impl Counts {
    fn write(&self, encoder: &mut Encoder) {
        encoder.number(self.openings);
        encoder.number(self.branches);
        encoder.number(self.snapshots);
        encoder.number(self.nodes);
    }

    pub(super) fn read(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            openings: decoder.counted()?,
            branches: decoder.counted()?,
            snapshots: decoder.counted()?,
            nodes: decoder.counted()?,
        })
    }
}

/// From which length on a log is followed by a checkpoint, if that is not longer.
const LONG_LOG: u64 = 64 << 20;
/// How much longer the log is when a checkpoint that failed is tried again.
const BETWEEN_TRIES: u64 = 4 << 20;

/// The log of a filesystem on disk, and where its content lies.
#[derive(Debug)]
pub(crate) struct Journal {
    place: Place,
    log: Log,
    extents: Arc<Extents>,
    /// From which length of the log on the next checkpoint is worth while, and one at a time.
    checkpoint: Mutex<u64>,
    /// How long the last checkpoint is.
    checkpoint_len: AtomicU64,
    /// How many bytes the store may take on its disk. It is a bound for what follows, and orders nothing.
    most: AtomicU64,
    /// Keeps other processes out of the store.
    _lock: Arc<dyn NamedFile>,
}

impl Journal {
    pub(super) fn new(
        place: Place,
        log: Log,
        extents: Arc<Extents>,
        checkpoint_len: u64,
        lock: Arc<dyn NamedFile>,
    ) -> Self {
        Self {
            place,
            log,
            extents,
            checkpoint: Mutex::new(LONG_LOG),
            checkpoint_len: AtomicU64::new(checkpoint_len),
            most: AtomicU64::new(u64::MAX),
            _lock: lock,
        }
    }

    /// Waits until everything so far survives a power cut.
    pub(crate) fn sync(&self) -> Result<()> {
        self.log.sync()
    }

    /// Returns whether everything so far survives a power cut.
    pub(crate) fn is_durable(&self) -> bool {
        self.log.is_durable()
    }

    /// Returns how many bytes a restart would read beside the last checkpoint.
    pub(crate) fn log_size(&self) -> u64 {
        self.log.backlog()
    }

    /// Returns whether a restart would read so much of the log that a checkpoint is worth while.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        let limit = self.checkpoint.try_lock();
        // Whoever has it locked writes a checkpoint, or a version that would have to be in it.
        limit.is_some_and(|limit| self.log.backlog() > *limit)
    }

    /// Writes a checkpoint, and forgets the log before it. `versions` is called while no operation
    /// is under way.
    /// What it returns first keeps versions from being added and deleted until the checkpoint has
    /// its place in the log.
    pub(crate) fn write_checkpoint<R>(
        &self,
        versions: impl FnOnce() -> (R, Counts, Vec<OldVersion>),
    ) -> Result<()> {
        let mut worth_while = self.checkpoint.lock();
        match self.write_one(versions) {
            Ok(length) => {
                *worth_while = length.max(self.long_log());
                self.checkpoint_len.store(length, Ordering::Relaxed);
                Ok(())
            }
            Err(errno) => {
                // What it has taken of the disk is needed. If it stays, the next one replaces it.
                let _unused: Result<()> = checkpoint::remove_unfinished(&*self.place.directory);
                *worth_while = self.log.backlog() + BETWEEN_TRIES;
                Err(errno)
            }
        }
    }

    /// Writes a checkpoint and returns how long it is.
    fn write_one<R>(&self, versions: impl FnOnce() -> (R, Counts, Vec<OldVersion>)) -> Result<u64> {
        let (counts, versions, next) = {
            let _paused = self.extents.pause();
            let (registry, counts, versions) = versions();
            let next = self.log.rotate()?;
            drop(registry);
            (counts, versions, next)
        };
        let directory = self.place.directory.clone();
        let mut writer = checkpoint::Writer::new(directory, self.place.store, next)?;
        let mut record = Encoder::default();
        counts.write(&mut record);
        writer.write(kind::OPENED, record.bytes())?;
        if self.most() < u64::MAX {
            record.clear();
            record.number(self.most());
            writer.write(kind::LIMIT, record.bytes())?;
        }
        for (index, version) in versions.iter().enumerate() {
            let base = version.base_of(versions.get(..index).unwrap_or(&[]));
            version
                .as_new(base)
                .write(CHECKPOINT_PART, |kind, record| {
                    writer.write(kind, record.bytes())
                })?;
        }
        let length = writer.end()?;
        // What it refers to is on disk before the log that says so is gone. That may be content of a
        // change whose record found no room in the log.
        self.log.sync_all()?;
        writer.install(|| self.log.sync_names())?;
        self.log.forget_before(next)?;
        Ok(length)
    }

    /// Sets how many bytes the store may take on its disk, and writes that to the log.
    pub(crate) fn set_most(&self, most: u64) -> Result<()> {
        let mut record = Encoder::default();
        record.number(most);
        self.write(kind::LIMIT, &record)?;
        self.has_most(most);
        Ok(())
    }

    /// Sets what the log says of that.
    pub(super) fn has_most(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
        let mut worth_while = self.checkpoint.lock();
        *worth_while = (*worth_while).min(self.long_log());
        self.share_room();
    }

    /// Returns how many bytes the store may take on its disk; `u64::MAX` without a limit.
    pub(crate) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// From which length on the log is long: with a limit it leaves most of it to content.
    fn long_log(&self) -> u64 {
        LONG_LOG.min(self.most() / 32)
    }

    /// Returns how many bytes the log and the checkpoint take on the disk.
    pub(crate) fn records_on_disk(&self) -> u64 {
        self.log.on_disk() + self.checkpoint_len.load(Ordering::Relaxed)
    }

    /// Leaves content what the log and the checkpoint do not take, nor the next checkpoint will take.
    fn share_room(&self) {
        let most = self.most();
        if most < u64::MAX {
            let left = most.saturating_sub(2 * self.records_on_disk());
            self.extents.set_limit(left);
        } else {
            self.extents.set_limit(most);
        }
    }

    /// Frees what waits for a sync to be free, if anything does, for an operation that has found no room.
    /// Returns whether there is more room now.
    pub(crate) fn reclaim(&self) -> bool {
        if !self.extents.has_waiting() || self.log.sync().is_err() {
            return false;
        }
        self.extents.give_back();
        true
    }

    /// Begins an operation: see [`Extents::operation`].
    pub(crate) fn operation(&self) -> RwLockReadGuard<'_, ()> {
        self.extents.operation()
    }

    /// Finds room for the record of an operation, before the operation begins.
    ///
    /// # Errors
    ///
    /// `ENOSPC` when the disk is full, or the store has all that it may take.
    pub(crate) fn reserve(&self, purpose: Purpose) -> Result<Room<'_>> {
        if self.most() < u64::MAX {
            self.share_room();
            if purpose == Purpose::Ordinary {
                self.extents.check_limit()?;
            }
        }
        self.log.reserve(purpose)
    }

    /// Writes what has changed in a branch, if anything has. What could not be written is written
    /// with the next change.
    pub(crate) fn write_changes(
        &self,
        branch: BranchId,
        seq: Seq,
        state: &mut State,
        room: Option<Room<'_>>,
    ) -> Result<()> {
        let State { tree, changes, .. } = state;
        tree.write_changes(changes);
        if changes.is_empty() {
            return Ok(());
        }
        let room = match room {
            Some(room) => room,
            None => self.reserve(Purpose::Freeing)?,
        };
        let mut record = Encoder::default();
        record.number(branch.0);
        record.number(seq.0);
        record.append(changes.bytes());
        self.log.append(room, kind::CHANGE, record.bytes())?;
        changes.clear();
        Ok(())
    }

    pub(crate) fn write_version(&self, version: &NewVersion<'_>) -> Result<()> {
        // The registry is locked, and the record goes into the log as a whole.
        version.write(usize::MAX, |kind, record| self.write(kind, record))
    }

    /// Writes a version that may be as large as the lower directory, part by part, so that others write
    /// to the log meanwhile. `written` is called when it is there; no checkpoint is written meanwhile,
    /// which would not hold the parts. The caller is in no [operation](Self::operation), for which a
    /// checkpoint waits.
    pub(crate) fn write_large(
        &self,
        version: &NewVersion<'_>,
        written: impl FnOnce(),
    ) -> Result<()> {
        let _no_checkpoint = self.checkpoint.lock();
        // Nobody else can write to the log while a record is written.
        let part = usize::try_from(4 * self.log.room()).unwrap_or(usize::MAX);
        version.write(part, |kind, record| {
            let room = self.reserve(Purpose::Ordinary)?;
            self.log.append(room, kind, record.bytes()).map(drop)
        })?;
        written();
        Ok(())
    }

    pub(crate) fn write_deleted(&self, version: VersionId) -> Result<()> {
        let mut record = Encoder::default();
        version.write(&mut record);
        self.write(kind::DELETED, &record)
    }

    pub(super) fn write_opened(&self, counts: &Counts) -> Result<()> {
        let mut record = Encoder::default();
        counts.write(&mut record);
        self.write(kind::OPENED, &record)
    }

    /// Returns why the log takes no more changes, if it does not.
    pub(crate) fn failure(&self) -> Option<String> {
        self.log.failure().map(ToString::to_string)
    }

    fn write(&self, kind: Kind, record: &Encoder) -> Result<()> {
        let room = self.reserve(Purpose::Freeing)?;
        self.log.append(room, kind, record.bytes())?;
        Ok(())
    }
}

impl Content for Extents {
    fn count_records(&self, count: &mut dyn FnMut()) {
        self.begin_sync(count);
    }

    fn sync(&self) -> Result<()> {
        self.sync_file()
    }

    fn covered(&self) {
        self.end_sync();
    }
}
