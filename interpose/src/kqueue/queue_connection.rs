//! The engine of this process and its connection to the daemon.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use agentfs_proto::message::{
    ByInode, QueueClose, QueueKind, QueueOpen, Target, UpdateDoorbellIdent, WatchBatch, WatchItem,
    WatchRegisterKqueue, WatchUnregister,
};
use agentfs_ring::Consumer;
use agentfs_ring::doorbell::{BellKind, Ringer, Waiter};

use super::daemon::{Channel, Daemon, Node, QueueId, WatchOp};
use super::engine::Engine;
use super::system;
use crate::config::{Hook, config};
use crate::fd_table::{self, Owner};
use crate::{connection, fork, hidden_fd, mounts};

/// The process's session as a [`Daemon`].
#[derive(Clone, Copy, Debug)]
pub struct QueueConnection;

/// Returns the engine of this process.
#[inline]
#[must_use]
pub fn engine() -> &'static Engine<QueueConnection> {
    static ENGINE: Engine<QueueConnection> = Engine::new(system::ORIGINALS, QueueConnection);
    &ENGINE
}

/// Notes that a descriptor of the program is about to be closed.
pub(crate) fn closing(fd: RawFd) {
    engine().closing(fd);
}

/// Notes that a descriptor of the program has another number, too.
pub(crate) fn duplicated(from: RawFd, to: RawFd) {
    engine().duplicated(from, to);
}

/// Frees the number `fd`, which the program takes, if a hidden descriptor has it.
pub(crate) fn vacate(fd: RawFd) {
    engine().vacate(fd);
}

/// Makes the state that of a child of fork.
pub(crate) fn in_forked_child() {
    engine().in_forked_child();
}

/// The requests in one message, which stays far below the largest frame.
const BATCH: usize = 1024;

impl Daemon for QueueConnection {
    fn covers(&self, file: BorrowedFd<'_>, _node: Node) -> bool {
        !config().is_off(Hook::Kqueue) && mounts::is_file_on_agentfs(file)
    }

    fn open_queue(&self) -> Option<(QueueId, Channel)> {
        fork::own_state();
        let request = QueueOpen {
            kind: QueueKind::KqueueXnu,
            capacity: 0,
        };
        let (session, opened) = connection::open_queue(&request)?;
        let id = QueueId {
            session,
            queue: opened.opened.queue,
        };
        let ring = Consumer::open(opened.ring).ok()?;
        let doorbell = hidden_fd::move_up(opened.doorbell);
        let refill = hidden_fd::move_up(opened.refill);
        fd_table::set(refill.as_raw_fd(), Owner::Hidden);
        let channel = Channel {
            ring,
            doorbell: Waiter::from_fd(doorbell, BellKind::Pipe),
            refill: Some(Ringer::from_fd(refill, system::REFILL_BELL)),
        };
        Some((id, channel))
    }

    fn apply(&self, queue: QueueId, ops: &[WatchOp]) {
        for ops in ops.chunks(BATCH) {
            let items = ops.iter().map(|op| item(queue.queue, op)).collect();
            if connection::request_in(queue.session, &WatchBatch { items }).is_none() {
                // The daemon is gone; everything is registered with a new one.
                return;
            }
        }
    }

    fn close_queue(&self, queue: QueueId) {
        let request = QueueClose { queue: queue.queue };
        // Without its session, the queue is closed already.
        let _closed = connection::request_in(queue.session, &request);
    }

    fn reserved_ident(&self, queue: QueueId, ident: u64) {
        let request = UpdateDoorbellIdent {
            queue: queue.queue,
            ident,
        };
        // Only the daemon's status shows the ident.
        let _told = connection::request_in(queue.session, &request);
    }

    fn restart_directory(&self) -> Option<OwnedFd> {
        let directory = connection::socket_directory()?;
        open_to_watch(&directory).map(hidden_fd::move_up)
    }

    fn lost(&self, _queue: QueueId) {
        connection::end_back_off();
    }
}

/// Opens a directory for EVFILT_VNODE, and keeps nothing busy by it.
fn open_to_watch(path: &std::ffi::CStr) -> Option<OwnedFd> {
    use rustix::fs::{Mode, OFlags, open};
    open(path, system::TO_WATCH | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn item(queue: u32, op: &WatchOp) -> WatchItem {
    match *op {
        WatchOp::Set {
            watch,
            node,
            ident,
            fflags,
        } => WatchItem::Kqueue(WatchRegisterKqueue {
            queue,
            watch: watch.0,
            fd: u32::try_from(ident).unwrap_or(u32::MAX),
            fflags,
            target: Target::Inode(ByInode {
                st_dev: node.dev,
                st_ino: node.ino,
            }),
        }),
        WatchOp::Remove { watch } => WatchItem::Unregister(WatchUnregister {
            queue,
            watch: watch.0,
        }),
    }
}
