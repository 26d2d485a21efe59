//! The way of a change to the log: what an operation has changed in its branch is written, as one
//! record, before the operation returns.

use std::sync::Arc;

use super::checkpoint;
use super::state::State;
use crate::disk::directory::NamedFile;
use crate::log::{Content, Kind, Log, Place, Purpose, Room};
use crate::model::errno::Result;
use crate::model::id::{BaseId, BranchId, Seq, SnapshotId};
use crate::store::extents::Extents;
use crate::store::format::bytes::{Decoder, Encoder, Malformed};
use crate::store::tree::Tree;
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

/// A new branch or snapshot, as the log has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewVersion<'a> {
    pub(crate) id: VersionId,
    pub(crate) name: &'a str,
    /// The branch from which a snapshot was made.
    pub(crate) from: BranchId,
    /// The number of a branch's last change.
    pub(crate) seq: Seq,
    /// The one that it is written as a difference from.
    pub(crate) base: Option<(VersionId, &'a Tree)>,
    pub(crate) tree: &'a Tree,
}

impl NewVersion<'_> {
    pub(super) fn write(&self, encoder: &mut Encoder) {
        self.id.write(encoder);
        encoder.text(self.name.as_bytes());
        encoder.number(self.from.0);
        encoder.number(self.seq.0);
        match self.base {
            Some((id, old)) => {
                id.write(encoder);
                self.tree.write_difference(old, encoder);
            }
            None => {
                encoder.byte(0);
                let nothing = Tree::unfilled(self.tree.shared.clone());
                self.tree.write_difference(&nothing, encoder);
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

/// A branch or snapshot that is written to a checkpoint.
#[derive(Debug)]
pub(crate) struct OldVersion {
    pub(crate) id: VersionId,
    pub(crate) name: Arc<str>,
    pub(crate) from: BranchId,
    pub(crate) seq: Seq,
    pub(crate) tree: Tree,
}

impl OldVersion {
    /// Returns the one of those before it with which it has most in common, as far as is known: the
    /// last that was made from the same branch and is frozen over the same base, or the base.
    fn base_of<'v>(&self, before: &'v [Self]) -> Option<&'v Self> {
        let own = match self.id {
            VersionId::Branch(id) => id,
            VersionId::Snapshot(_) => self.from,
            VersionId::Base(_) => {
                let is_base = |it: &&Self| matches!(it.id, VersionId::Base(_));
                return before.iter().rfind(is_base);
            }
        };
        let base = self.tree.base().map(|base| base.id);
        let is_like = |it: &Self| {
            !matches!(it.id, VersionId::Base(_)) && it.tree.base().map(|base| base.id) == base
        };
        let last_of = |branch| before.iter().rfind(|it| it.from == branch && is_like(it));
        last_of(own)
            .or_else(|| last_of(self.from))
            .or_else(|| match base {
                Some(id) => before.iter().find(|it| it.id == VersionId::Base(id)),
                None => before.iter().rfind(|it| is_like(it)),
            })
    }

    fn as_new<'v>(&'v self, base: Option<&'v Self>) -> NewVersion<'v> {
        NewVersion {
            id: self.id,
            name: &self.name,
            from: self.from,
            seq: self.seq,
            base: base.map(|base| (base.id, &base.tree)),
            tree: &self.tree,
        }
    }
}

/// From which length on a log is followed by a checkpoint, if that is not longer.
const LONG_LOG: u64 = 64 << 20;

/// The log of a filesystem on disk, and where its content lies.
#[derive(Debug)]
pub(crate) struct Journal {
    place: Place,
    log: Log,
    extents: Arc<Extents>,
    /// How long the last checkpoint is, and one at a time.
    checkpoint: Mutex<u64>,
    /// Keeps other processes out of the store.
    _lock: Arc<dyn NamedFile>,
}

impl Journal {
    pub(super) fn new(
        place: Place,
        log: Log,
        extents: Arc<Extents>,
        lock: Arc<dyn NamedFile>,
    ) -> Self {
        Self {
            place,
            log,
            extents,
            checkpoint: Mutex::new(0),
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
        self.log.size()
    }

    /// Returns whether a restart would read so much of the log that a checkpoint is worth while.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.log.size() > (*self.checkpoint.lock()).max(LONG_LOG)
    }

    /// Writes a checkpoint, and forgets the log before it. `versions` is called while no operation
    /// is under way.
    /// What it returns first keeps versions from being added and deleted until the checkpoint has
    /// its place in the log.
    pub(crate) fn write_checkpoint<R>(
        &self,
        versions: impl FnOnce() -> (R, Counts, Vec<OldVersion>),
    ) -> Result<()> {
        let mut length = self.checkpoint.lock();
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
        for (index, version) in versions.iter().enumerate() {
            let base = version.base_of(versions.get(..index).unwrap_or(&[]));
            record.clear();
            version.as_new(base).write(&mut record);
            writer.write(kind::VERSION, record.bytes())?;
        }
        *length = writer.end()?;
        // What it refers to is on disk before the log that says so is gone. That may be content of a
        // change whose record found no room in the log.
        self.log.sync_all()?;
        writer.install(|| self.log.sync_names())?;
        self.log.forget_before(next)
    }

    /// Begins an operation: see [`Extents::operation`].
    pub(crate) fn operation(&self) -> RwLockReadGuard<'_, ()> {
        self.extents.operation()
    }

    /// Finds room for the record of an operation, before the operation begins.
    pub(crate) fn reserve(&self, purpose: Purpose) -> Result<Room<'_>> {
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
        record.append(changes);
        self.log.append(room, kind::CHANGE, record.bytes())?;
        changes.clear();
        Ok(())
    }

    pub(crate) fn write_version(&self, version: &NewVersion<'_>) -> Result<()> {
        let mut record = Encoder::default();
        version.write(&mut record);
        self.write(kind::VERSION, &record)
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
