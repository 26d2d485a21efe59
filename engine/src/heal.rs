//! What a queue gets in place of events when its reader is too slow: the difference between the
//! branch as the reader last knew it and the branch as it is now.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use agentfs_core::event::{Change, Envelope, Origin};
use agentfs_core::id::{BranchId, Seq};
use agentfs_core::{Branch, Frozen, FsCore, Result};

use crate::record::Record;
use crate::spill::{Pool, Spill};

/// Freezes the branch that a queue looks at, so that its reader can be given the difference later.
#[derive(Clone, Debug)]
pub(crate) struct Freezer {
    pub(crate) core: FsCore,
    pub(crate) branch: BranchId,
}

impl Freezer {
    /// Returns `None` when the branch is deleted.
    pub(crate) fn freeze(&self) -> Option<Base> {
        let branch = self.core.branch(self.branch).ok()?;
        Some(Base(branch.freeze()))
    }
}

/// A branch as a reader last knew it.
#[derive(Debug)]
pub(crate) struct Base(Frozen);

impl Base {
    /// Returns the last change that this state has.
    pub(crate) fn seq(&self) -> Seq {
        self.0.seq()
    }

    /// Returns the two states between which the reader has to learn the difference.
    pub(crate) fn gap(self, branch: &Branch) -> Gap {
        Gap {
            old: self.0,
            new: branch.freeze(),
        }
    }
}

/// Two states of a branch. Working out what differs takes time, so it is done without a lock.
#[derive(Debug)]
pub(crate) struct Gap {
    old: Frozen,
    new: Frozen,
}

impl Gap {
    /// Works out the net changes.
    ///
    /// # Errors
    ///
    /// The error of the host, when the lower layer cannot be read.
    pub(crate) fn changes(&self, branch: &Branch) -> Result<Vec<Change>> {
        branch.changes_between(&self.old, &self.new)
    }

    /// Returns the replay of these changes, which waits until they are worked out.
    pub(crate) fn replay(&self, branch: BranchId, pool: Arc<Pool>) -> Replay {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = since.unwrap_or_default().as_nanos();
        Replay {
            changes: None,
            missed: Vec::new().into_iter(),
            closing: None,
            branch,
            seq: self.new.seq(),
            time_ns: u64::try_from(nanos).unwrap_or(u64::MAX),
            waiting: Spill::new(pool),
            delivering: false,
        }
    }
}

/// A difference that is being delivered, change by change, as the reader makes room.
pub(crate) struct Replay {
    /// `None` while they are being worked out.
    changes: Option<std::vec::IntoIter<Change>>,
    /// Changes that the reader of an earlier process has missed, as they were made.
    missed: std::vec::IntoIter<Envelope>,
    /// The close of the content that was delivered last.
    closing: Option<Envelope>,
    branch: BranchId,
    /// The last change that the difference holds.
    seq: Seq,
    time_ns: u64,
    /// Records of the last change for which the ring had no room.
    waiting: Spill,
    delivering: bool,
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field(
                "changes",
                &self.changes.as_ref().map(ExactSizeIterator::len),
            )
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Replay {
    /// Returns the replay of changes that the reader of an earlier process has missed, up to this one.
    pub(crate) fn of_missed(
        missed: Vec<Envelope>,
        branch: BranchId,
        seq: Seq,
        pool: Arc<Pool>,
    ) -> Self {
        Self {
            changes: Some(Vec::new().into_iter()),
            missed: missed.into_iter(),
            closing: None,
            branch,
            seq,
            time_ns: 0,
            waiting: Spill::new(pool),
            delivering: false,
        }
    }

    /// Returns the number of the last change that the difference holds.
    pub(crate) fn seq(&self) -> Seq {
        self.seq
    }

    /// Returns whether the changes are still being worked out.
    pub(crate) fn is_awaited(&self) -> bool {
        self.changes.is_none()
    }

    /// Sets the changes of the replay.
    pub(crate) fn begin(&mut self, changes: Vec<Change>) {
        self.changes = Some(changes.into_iter());
    }

    /// Returns whether the records that are enqueued now belong to a change of this replay.
    pub(crate) fn is_delivering(&self) -> bool {
        self.delivering
    }

    /// Keeps a record of the change that is being delivered until the ring has room.
    pub(crate) fn hold(&mut self, record: Record<'_>) {
        record.spill_into(&mut self.waiting);
    }

    /// Returns the next change to deliver. Records that are enqueued before
    /// [`finish_change`](Self::finish_change) belong to it, and wait here for room in the ring.
    pub(crate) fn next_envelope(&mut self) -> Option<Envelope> {
        let envelope = match self.closing.take() {
            Some(closing) => closing,
            None => self.next_change()?,
        };
        let close = envelope.change.content_close();
        self.closing = close.map(|change| Envelope {
            change,
            ..envelope.clone()
        });
        self.delivering = true;
        Some(envelope)
    }

    fn next_change(&mut self) -> Option<Envelope> {
        let Some(change) = self.changes.as_mut()?.next() else {
            return self.missed.next();
        };
        Some(Envelope {
            seq: self.seq,
            time_ns: self.time_ns,
            branch: self.branch,
            pid: 0,
            origin: Origin::Local,
            change,
        })
    }

    pub(crate) fn finish_change(&mut self) {
        self.delivering = false;
    }

    pub(crate) fn waiting(&mut self) -> &mut Spill {
        &mut self.waiting
    }
}
