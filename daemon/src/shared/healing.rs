//! Differences for readers that were too slow. To work one out takes time in proportion to what
//! changed, so it is done neither in the event loop nor by a thread that others wait for: each branch
//! whose readers wait for differences has a thread of its own, until all have them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use agentfs_core::id::BranchId;
use parking_lot::Mutex;

type Work = Box<dyn FnOnce() + Send>;

/// The differences that wait for the thread of their branch. A branch without an entry has no thread.
#[derive(Clone, Default)]
pub(crate) struct Healing(Arc<Mutex<HashMap<BranchId, VecDeque<Work>>>>);

impl fmt::Debug for Healing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Healing").finish_non_exhaustive()
    }
}

impl Healing {
    /// Has the thread of a branch do this. `start` starts the thread, if there is none; if it
    /// cannot, this thread does the work.
    pub(crate) fn add(&self, branch: BranchId, work: Work, start: impl FnOnce(Work) -> bool) {
        let mut waiting = self.0.lock();
        if let Some(waiting) = waiting.get_mut(&branch) {
            waiting.push_back(work);
            return;
        }
        waiting.insert(branch, VecDeque::from([work]));
        drop(waiting);
        let healing = self.clone();
        if !start(Box::new(move || healing.run(branch))) {
            self.run(branch);
        }
    }

    fn run(&self, branch: BranchId) {
        while let Some(work) = self.next(branch) {
            work();
        }
    }

    fn next(&self, branch: BranchId) -> Option<Work> {
        let mut waiting = self.0.lock();
        let next = waiting.get_mut(&branch).and_then(VecDeque::pop_front);
        if next.is_none() {
            waiting.remove(&branch);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::{Healing, Work};
    use agentfs_core::id::BranchId;
    use std::sync::mpsc::channel;

    #[test]
    fn each_branch_has_one_thread_until_nothing_waits() {
        let (healing, (done, order)) = (Healing::default(), channel());
        let mut threads: Vec<Work> = Vec::new();
        for (branch, number) in [(1, 10), (2, 20), (1, 11)] {
            let done = done.clone();
            let work = Box::new(move || done.send(number).expect("somebody listens"));
            healing.add(BranchId(branch), work, |thread| {
                threads.push(thread);
                true
            });
        }
        assert_eq!(threads.len(), 2);
        threads.into_iter().for_each(|thread| thread());
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [10, 11, 20]);
        let done = Box::new(move || done.send(12).expect("somebody listens"));
        healing.add(BranchId(1), done, |_| false);
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [12]);
    }
}
