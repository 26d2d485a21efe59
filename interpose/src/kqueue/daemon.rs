//! What the kqueue side needs of the connection to the daemon.

use std::os::fd::{BorrowedFd, OwnedFd};

use agentfs_ring::Consumer;
use agentfs_ring::doorbell::{Ringer, Waiter};

/// Names a queue in requests to the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct QueueId {
    /// The session that it belongs to; a request never goes into another one.
    pub session: u32,
    /// The daemon's number for it.
    pub queue: u32,
}

/// Names one EVFILT_VNODE knote of a queue: what its records carry as `watch`. The shim chooses it
/// and never uses one twice in a queue, so a late record of a deleted knote finds nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WatchId(pub u64);

/// The file that a knote hangs on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// One change of what a queue hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchOp {
    /// From now on, post to `watch` what happens to `node` and concerns `fflags`. A watch that exists
    /// becomes this one.
    Set {
        /// The watch.
        watch: WatchId,
        /// The file.
        node: Node,
        /// The program's descriptor, for people.
        ident: u64,
        /// NOTE_* bits asked for.
        fflags: u32,
    },
    /// No more.
    Remove {
        /// The watch.
        watch: WatchId,
    },
}

/// The ring of one queue and its doorbells.
#[derive(Debug)]
pub struct Channel {
    /// Where records arrive.
    pub ring: Consumer,
    /// Rung when a record arrives while nobody pops: the reading end of a pipe, non-blocking.
    pub doorbell: Waiter,
    /// To be rung when the producer waits for space.
    pub refill: Option<Ringer>,
}

/// The connection to the daemon. Calls come from the program's own threads; they may take a round
/// trip, and must end when the daemon does.
pub trait Daemon: Sync {
    /// Whether the open file, which is `node`, lies on a mount of the daemon. Asked for every
    /// EVFILT_VNODE change with EV_ADD: a look into a table.
    fn covers(&self, file: BorrowedFd<'_>, node: Node) -> bool;

    /// Makes a queue; `None` when there is no daemon.
    fn open_queue(&self) -> Option<(QueueId, Channel)>;

    /// Applies `ops` in order. When it returns, they are in force, or the daemon is gone.
    fn apply(&self, queue: QueueId, ops: &[WatchOp]);

    /// The program closed the queue.
    fn close_queue(&self, queue: QueueId);

    /// Which ident the reserved EVFILT_USER knote of the queue has, for people who look at the status.
    fn reserved_ident(&self, queue: QueueId, ident: u64);

    /// What to watch while there is no daemon: a directory in which something is made when it comes
    /// back. `None` when nobody waits for it.
    fn restart_directory(&self) -> Option<OwnedFd>;

    /// The channel of the queue is broken or its other end closed. Nothing comes through it any more.
    fn lost(&self, queue: QueueId);
}
