//! What the kqueue side needs of the connection to the daemon.

use std::os::fd::{BorrowedFd, OwnedFd};

use agentfs_ring::Consumer;
use agentfs_ring::doorbell::{Ringer, Waiter};

/// Names a queue in requests to the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct QueueId {
    /// The session that the queue belongs to; a request never goes into another one.
    pub session: u32,
    /// The daemon's number for the queue.
    pub queue: u32,
}

/// Names one EVFILT_VNODE knote of a queue: its records carry it as `watch`. The shim chooses the name and
/// never uses one twice in a queue, so a late record of a deleted knote finds no other knote.
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

/// One change of what is delivered to a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchOp {
    /// Posts to `watch`, from now on, what happens to `node` and concerns `fflags`. A watch that exists
    /// becomes this one.
    Set {
        /// The watch.
        watch: WatchId,
        /// The file.
        node: Node,
        /// The program's descriptor, which the daemon's status shows.
        ident: u64,
        /// The NOTE_* bits that the program asks for.
        fflags: u32,
    },
    /// Ends a watch.
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
    /// Rung when a record arrives while no thread pops: the reading end of a pipe, non-blocking.
    pub doorbell: Waiter,
    /// To be rung when the producer waits for space.
    pub refill: Option<Ringer>,
}

/// The connection to the daemon. Its methods are called by the program's own threads; they may take a
/// round trip, and must return when the daemon ends.
pub trait Daemon: Sync {
    /// Returns whether the open file, which is `node`, lies on a mount of the daemon. It is called for every
    /// EVFILT_VNODE change with EV_ADD, so it has to be a look into a table.
    fn covers(&self, file: BorrowedFd<'_>, node: Node) -> bool;

    /// Opens a queue. Returns `None` when there is no daemon.
    fn open_queue(&self) -> Option<(QueueId, Channel)>;

    /// Applies `ops` in order. When the method returns, they are in force, or the daemon is gone.
    fn apply(&self, queue: QueueId, ops: &[WatchOp]);

    /// Closes a queue, as the program has.
    fn close_queue(&self, queue: QueueId);

    /// Reports the ident of the queue's reserved EVFILT_USER knote, which the daemon's status shows.
    fn reserved_ident(&self, queue: QueueId, ident: u64);

    /// Returns the directory to watch while there is no daemon: something is made in it when a daemon
    /// starts. Returns `None` when no daemon is to be waited for.
    fn restart_directory(&self) -> Option<OwnedFd>;

    /// Notes that the channel of the queue is broken, or its other end closed: nothing comes through it any
    /// more.
    fn lost(&self, queue: QueueId);
}
