//! What a queue is told instead of events when it reads too slowly: the difference between the
//! branch as its reader last knew it and the branch as it is.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use agentfs_core::event::{Change, Envelope, Origin};
use agentfs_core::id::{BranchId, Seq};
use agentfs_core::{Branch, Frozen, FsCore, Result};

use crate::channel::Record;
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
    /// The last change that it holds.
    pub(crate) fn seq(&self) -> Seq {
        self.0.seq()
    }

    /// What must be told for the reader to know the branch as it is now.
    pub(crate) fn gap(self, branch: &Branch) -> Gap {
        Gap {
            old: self.0,
            new: branch.freeze(),
        }
    }
}

/// Two states of a branch. Finding what differs takes time, so it is done without any lock.
#[derive(Debug)]
pub(crate) struct Gap {
    old: Frozen,
    new: Frozen,
}

impl Gap {
    /// The net changes.
    ///
    /// # Errors
    ///
    /// What the host says of the lower layer.
    pub(crate) fn changes(&self, branch: &Branch) -> Result<Vec<Change>> {
        branch.changes_between(&self.old, &self.new)
    }

    /// The replay of the changes, which are still to be found.
    pub(crate) fn replay(&self, branch: BranchId, pool: Arc<Pool>) -> Replay {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = since.unwrap_or_default().as_nanos();
        Replay {
            changes: None,
            closing: None,
            branch,
            seq: self.new.seq(),
            time_ns: u64::try_from(nanos).unwrap_or(u64::MAX),
            waiting: Spill::new(pool),
            delivering: false,
        }
    }
}

/// A difference that is being told, change by change, as the reader makes room.
pub(crate) struct Replay {
    /// Nothing while they are being found.
    changes: Option<std::vec::IntoIter<Change>>,
    closing: Option<Change>,
    branch: BranchId,
    /// The last change that the difference holds.
    seq: Seq,
    time_ns: u64,
    /// Records of the last change that found no room.
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
    /// The last change that the difference holds.
    pub(crate) fn seq(&self) -> Seq {
        self.seq
    }

    /// Whether the changes are still being found.
    pub(crate) fn is_awaited(&self) -> bool {
        self.changes.is_none()
    }

    /// The changes are found.
    pub(crate) fn begin(&mut self, changes: Vec<Change>) {
        self.changes = Some(changes.into_iter());
    }

    /// Whether what is sent now comes from here.
    pub(crate) fn is_delivering(&self) -> bool {
        self.delivering
    }

    /// Keeps a record of the change that is being delivered until the ring has room.
    pub(crate) fn hold(&mut self, record: Record<'_>) {
        record.spill_into(&mut self.waiting);
    }

    /// The next change to tell. Until [`finish_change`](Self::finish_change) what is sent is taken for
    /// its records, which wait here if there is no room.
    pub(crate) fn next_envelope(&mut self) -> Option<Envelope> {
        let next = || self.changes.as_mut()?.next();
        let change = self.closing.take().or_else(next)?;
        self.closing = change.content_close();
        self.delivering = true;
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
