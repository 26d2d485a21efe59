//! The changes of the time in which readers of an earlier process are still on their way here.
//!
//! A reader goes on with a queue of this service in three steps: its new queue is held, its watches are
//! registered, and the queue is refilled. From the first to the last step nothing is enqueued: what is
//! routed meanwhile is kept here, with everything since the service began.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_core::event::Envelope;
use agentfs_core::id::{BranchId, Seq};
use parking_lot::Mutex;

/// How many changes of all branches are kept at most.
const MOST: usize = 65_536;

type IsWanted = Box<dyn Fn(&Envelope) -> bool + Send + Sync>;

/// The kept changes.
pub(crate) struct Kept {
    is_on: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_wanted: Option<IsWanted>,
    branches: HashMap<BranchId, OfBranch>,
    count: usize,
}

struct OfBranch {
    /// `None` when some are missing.
    changes: Option<Vec<Envelope>>,
    /// The last one that was kept or passed over.
    through: Seq,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            is_on: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }
}

impl Kept {
    /// Begins to keep the changes that are wanted. `branches` have these last changes now.
    pub(crate) fn begin(
        &self,
        is_wanted: IsWanted,
        branches: impl Iterator<Item = (BranchId, Seq)>,
    ) {
        let mut state = self.state.lock();
        state.is_wanted = Some(is_wanted);
        let nothing = |through| OfBranch {
            changes: Some(Vec::new()),
            through,
        };
        state.branches = branches.map(|(id, seq)| (id, nothing(seq))).collect();
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Ends it. Readers that come later have to look around by themselves.
    pub(crate) fn end(&self) {
        self.is_on.store(false, Ordering::Relaxed);
        let state = std::mem::take(&mut *self.state.lock());
        // It may be much, and is freed without the lock.
        drop(state);
    }

    /// Returns whether changes are kept.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Keeps a change, before it is routed.
    #[inline]
    pub(crate) fn note(&self, envelope: &Envelope) {
        if self.is_on() {
            self.keep(envelope);
        }
    }

    #[cold]
    fn keep(&self, envelope: &Envelope) {
        let mut state = self.state.lock();
        let State {
            is_wanted: Some(is_wanted),
            branches,
            count,
        } = &mut *state
        else {
            return;
        };
        let of_branch = branches.entry(envelope.branch).or_insert(OfBranch {
            changes: Some(Vec::new()),
            through: Seq(0),
        });
        of_branch.through = envelope.seq;
        let Some(changes) = &mut of_branch.changes else {
            return;
        };
        // A content that was written is taken for closed too.
        if is_activity(envelope) || !is_wanted(envelope) {
            return;
        }
        if *count >= MOST {
            of_branch.changes = None;
            return;
        }
        *count += 1;
        changes.push(envelope.clone());
    }

    /// Notes that changes of a branch are missing.
    pub(crate) fn lose(&self, branch: BranchId) {
        let mut state = self.state.lock();
        let nothing = OfBranch {
            changes: None,
            through: Seq(0),
        };
        let of_branch = state.branches.entry(branch).or_insert(nothing);
        of_branch.changes = None;
    }

    /// Returns the changes of a branch, and the number of the last one; `None` when some are missing.
    pub(crate) fn of(&self, branch: BranchId) -> Option<(Vec<Envelope>, Seq)> {
        let state = self.state.lock();
        state.is_wanted.as_ref()?;
        match state.branches.get(&branch) {
            None => Some((Vec::new(), Seq(0))),
            Some(of_branch) => Some((of_branch.changes.clone()?, of_branch.through)),
        }
    }
}

fn is_activity(envelope: &Envelope) -> bool {
    use agentfs_core::event::Change;
    matches!(
        envelope.change,
        Change::Opened { .. } | Change::Read { .. } | Change::Closed { .. }
    )
}
