//! Readers of an earlier process that was killed, which go on with queues of this one.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use agentfs_core::event::Envelope;
use agentfs_core::id::{BranchId, Seq, SessionId};

use super::WatchService;
use crate::heal::Replay;
use crate::queue::{Open, Queue};

impl WatchService {
    /// Begins to keep changes for readers that are still on their way here. Of those that `is_wanted`
    /// leaves out no reader has to hear.
    pub fn keep_changes(&self, is_wanted: impl Fn(&Envelope) -> bool + Send + Sync + 'static) {
        let branches = self.core.branches().into_iter();
        let branches = branches.filter_map(|it| self.core.branch(it.id).ok());
        let branches = branches.map(|branch| (branch.id(), branch.last_seq()));
        self.kept.begin(Box::new(is_wanted), branches);
    }

    /// Ends the keeping of changes. Readers that come later get an overflow record.
    pub fn forget_changes(&self) {
        self.kept.end();
    }

    /// Notes that changes of a branch are not known: its readers that come get an overflow record.
    pub fn lose_changes(&self, branch: BranchId) {
        self.kept.lose(branch);
    }

    /// Holds a new queue until its watches are registered and it is [refilled](Self::refill): it then
    /// gets `missed`, in their order, and the changes that were kept. It gets an overflow record if that
    /// is `None` or some were not kept.
    pub fn hold(&self, queue: &Arc<Queue>, missed: Option<Vec<Envelope>>) {
        if let Some(open) = queue.lock().as_mut() {
            open.channel.backlog.held = Some(missed);
            open.channel.publish();
        }
    }

    /// Returns whether a queue is [held](Self::hold).
    #[must_use]
    pub fn is_held(&self, queue: &Queue) -> bool {
        let queue = queue.lock();
        queue
            .as_ref()
            .is_some_and(|it| it.channel.backlog.held.is_some())
    }

    /// Returns the number of the last change that the reader of a held queue has got among those that it
    /// had missed, once none of them waits any more.
    #[must_use]
    pub fn missed_through(&self, queue: &Queue) -> Option<Seq> {
        let queue = queue.lock();
        let channel = &queue.as_ref()?.channel;
        let through = channel.backlog.missed_through;
        (through > Seq(0) && !channel.has_backlog()).then_some(through)
    }

    /// Returns how many queues of a session have something that waits elsewhere than in their rings.
    #[must_use]
    pub fn waiting_of(&self, session: SessionId) -> Option<Arc<AtomicUsize>> {
        let sessions = self.sessions.lock();
        Some(Arc::clone(&sessions.get(&session)?.waiting))
    }

    /// Begins to deliver what the reader of a held queue has missed.
    pub(super) fn release(&self, queue: &Queue, open: &mut Open, missed: Option<Vec<Envelope>>) {
        let Ok(branch) = self.core.branch(queue.branch) else {
            return;
        };
        let kept = self.kept.of(queue.branch);
        let (Some(mut missed), Some((mut kept, through))) = (missed, kept) else {
            open.channel.overflow();
            // What follows is enqueued again.
            open.channel.backlog.missed_through = branch.last_seq();
            return;
        };
        missed.append(&mut kept);
        let pool = Arc::clone(&self.pool);
        let channel = &mut open.channel;
        if !missed.is_empty() {
            channel.counters.healed += 1;
        }
        channel.backlog.healed_through = through;
        channel.backlog.missed_through = through;
        channel.backlog.replay = Some(Replay::of_missed(missed, queue.branch, through, pool));
    }
}
