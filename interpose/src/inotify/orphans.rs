//! Queues of instances that this process has closed while other processes had them.
//!
//! The last process with an instance closes its queue. A process that is killed closes nothing; so the one
//! whose session the queue belongs to remembers the queues that it left to others, and closes those that
//! nobody has any more when it next opens or leaves one. What is left then ends with the session.

use crate::inotify::queue::QueueName;
use crate::inotify::shared::Shared;
use crate::lock::Lock;

#[derive(Debug)]
struct Orphan {
    queue: QueueName,
    /// Says which processes have the instance.
    shared: Shared,
}

static ORPHANS: Lock<Vec<Orphan>> = Lock::new(Vec::new());

/// Remembers a queue that is left to other processes.
pub(crate) fn adopt(queue: QueueName, shared: Shared) {
    ORPHANS.with(|orphans| orphans.push(Orphan { queue, shared }));
    close_abandoned();
}

/// Closes the queues whose instances no process has any more.
pub(crate) fn close_abandoned() {
    ORPHANS.with(|orphans| {
        orphans.retain(|it| {
            let is_abandoned = it.shared.is_abandoned();
            if is_abandoned {
                it.queue.close();
            }
            !is_abandoned
        });
    });
}

/// Leaves them to the parent, whose session they belong to.
pub(crate) fn in_forked_child() {
    ORPHANS.break_open();
    ORPHANS.with(|orphans| {
        let _ = std::mem::ManuallyDrop::new(std::mem::take(orphans));
    });
}
