//! The program's kqueues, and what happens to descriptors.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The program: a number that it puts into a change it keeps open for its own call. If another thread
//!    closes it meanwhile, a system call of ours fails or looks at another file; no memory depends on it.
//! 2. Our own: a hidden descriptor of a queue is an open number that the queue owns. In a child of fork
//!    the queues are never dropped, and the one thread there uses none of them.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use super::abi::{self, Flavour, Layout};
use super::daemon::{Daemon, Node};
use super::kernel::{Call, Errno, Originals, Real};
use super::queue::Queue;
use crate::fd_table::{self, Owner};
use crate::lock::Lock;

/// Everything that the hooks of the kevent family need to know.
#[derive(Debug)]
pub struct Engine<D> {
    pub(super) originals: Originals,
    pub(super) daemon: D,
    queues: Lock<BTreeMap<RawFd, Arc<Queue>>>,
}

impl<D: Daemon> Engine<D> {
    /// Makes an engine without queues.
    pub const fn new(originals: Originals, daemon: D) -> Self {
        Self {
            originals,
            daemon,
            queues: Lock::new(BTreeMap::new()),
        }
    }

    /// Returns the connection that the engine was made with.
    pub fn daemon(&self) -> &D {
        &self.daemon
    }

    pub(super) fn find(&self, kq: RawFd) -> Option<Arc<Queue>> {
        if !is_marked(kq) {
            return None;
        }
        self.queues.lock()?.get(&kq).map(Arc::clone)
    }

    /// Returns the AgentFS file behind a descriptor.
    pub(super) fn node(&self, ident: u64) -> Option<Node> {
        let (fd, node) = file_at(ident)?;
        self.daemon.covers(fd, node).then_some(node)
    }

    /// Returns whether any change of the call puts a watch on an AgentFS file.
    pub(super) fn adds_a_watch<L: Layout + Real>(&self, call: &Call<L>) -> bool {
        (0..call.changes())
            .filter_map(|index| call.change(index))
            .any(|change| {
                let (ident, filter, flags) = change.head();
                filter == abi::EVFILT_VNODE
                    && flags & (abi::EV_ADD | abi::EV_DELETE) == abi::EV_ADD
                    && self.node(ident).is_some()
            })
    }

    /// Returns the queue of `kq`, which is opened if there is a daemon.
    pub(super) fn find_or_open(&self, kq: RawFd, flavour: Flavour) -> Option<Arc<Queue>> {
        if let Some(queue) = self.find(kq) {
            return Some(queue);
        }
        let (id, channel) = self.daemon.open_queue()?;
        let queue = match Queue::new(&self.originals, kq, flavour, id, channel) {
            Ok(queue) => Arc::new(queue),
            Err(_) => {
                self.daemon.close_queue(id);
                return None;
            }
        };
        let mut queues = self.queues.lock()?;
        let known = queues.get(&kq).map(Arc::clone);
        if known.is_none() && mark(kq) {
            queues.insert(kq, Arc::clone(&queue));
            drop(queues);
            self.daemon.reserved_ident(id, queue.hidden().user);
            return Some(queue);
        }
        drop(queues);
        // Another thread was faster, or the number is beyond what the table holds.
        queue.withdraw(&self.originals);
        self.daemon.close_queue(id);
        known
    }

    /// Notes that kqueue(2) or guarded_kqueue_np returned `kq`: the number does not mean the earlier queue any
    /// more, even if no hook saw that queue close.
    pub fn opened(&self, kq: RawFd) {
        self.forget_queue(kq);
    }

    /// Returns whether `fd` is a hidden descriptor, which the program has not opened and cannot close.
    #[inline]
    pub fn hides(&self, fd: RawFd) -> bool {
        fd_table::get(fd) == Owner::Hidden
    }

    /// Returns the hidden descriptors that hang in the queue `kq`, for diagnostics.
    pub fn hidden_descriptors(&self, kq: RawFd) -> Vec<RawFd> {
        let queue = self.find(kq);
        queue.map_or_else(Vec::new, |queue| queue.hidden_descriptors().collect())
    }

    /// Notes that the program is about to close `fd`, by close(2) or by dup2(2) over it.
    #[inline]
    pub fn closing(&self, fd: RawFd) {
        if !is_marked(fd) {
            return;
        }
        self.forget_queue(fd);
        for queue in self.all() {
            queue.descriptor_closes(&self.daemon, fd);
        }
    }

    /// Notes that dup(2), dup2(2) or fcntl(2) made `new` another number of `old`.
    pub fn duplicated(&self, old: RawFd, new: RawFd) {
        let Some(queue) = self.find(old) else {
            return;
        };
        if let Some(mut queues) = self.queues.lock()
            && mark(new)
        {
            queues.insert(new, queue);
        }
    }

    /// Frees the number `fd`, which the program takes for itself (dup2(2)), if a hidden descriptor has it.
    pub fn vacate(&self, fd: RawFd) {
        if !self.hides(fd) {
            return;
        }
        for queue in self.all() {
            if queue.hidden_descriptors().any(|ours| ours == fd) {
                // A queue that cannot move loses its doorbell, not the program its number.
                let _moved = queue.yield_number(&self.originals, fd);
            }
        }
    }

    /// Drops every queue in a child of fork(2). The kernel gives the child no kqueues, and it has no doorbells.
    pub fn in_forked_child(&self) {
        // The thread that held the lock does not exist in the child.
        self.queues.break_open();
        let Some(mut queues) = self.queues.lock() else {
            return;
        };
        // Other threads of the parent may have been anywhere in these: they are left as they are.
        let queues = ManuallyDrop::new(std::mem::take(&mut *queues));
        for (kq, queue) in queues.iter() {
            fd_table::set(*kq, Owner::Foreign);
            for fd in queue.hidden_descriptors() {
                fd_table::set(fd, Owner::Foreign);
                #[expect(unsafe_code, reason = "the owner of the descriptor is never dropped")]
                // SAFETY: 2: the child's copy is open and ours, and its owner will neither use nor close it.
                unsafe {
                    rustix::io::close(fd);
                }
            }
        }
    }

    /// Reconnects with a new daemon: each queue gets a new channel, everything is registered again, and every
    /// knote gets NOTE_WRITE.
    pub fn reconnect(&self) {
        for queue in self.all() {
            queue.reconnect(&self.originals, &self.daemon);
        }
    }

    /// Returns each queue once. The table's lock is free then.
    fn all(&self) -> Vec<Arc<Queue>> {
        let Some(queues) = self.queues.lock() else {
            return Vec::new();
        };
        let mut all: Vec<_> = queues.values().map(Arc::clone).collect();
        drop(queues);
        all.sort_by_key(Arc::as_ptr);
        all.dedup_by(|a, b| Arc::ptr_eq(a, b));
        all
    }

    fn forget_queue(&self, kq: RawFd) {
        if !is_marked(kq) {
            return;
        }
        fd_table::set(kq, Owner::Foreign);
        let Some(mut queues) = self.queues.lock() else {
            return;
        };
        let Some(queue) = queues.remove(&kq) else {
            return;
        };
        let other = queues.iter().find(|(_, other)| Arc::ptr_eq(other, &queue));
        let other = other.map(|(number, _)| *number);
        drop(queues);
        if let Some(number) = other {
            queue.renumber(number);
        } else {
            queue.close();
            self.daemon.close_queue(queue.id());
        }
    }
}

/// Returns the file behind a descriptor of the program, for as long as the program keeps it.
pub(super) fn file_at<'a>(ident: u64) -> Option<(BorrowedFd<'a>, Node)> {
    let fd = RawFd::try_from(ident).ok().filter(|fd| *fd >= 0)?;
    #[expect(unsafe_code, reason = "the number comes from the program")]
    // SAFETY: 1: not -1, and open for the one call of the program in which it is borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = rustix::fs::fstat(fd).ok()?;
    // The types differ between systems; dev_t is signed on macOS.
    let (dev, ino) = (stat.st_dev as u64, stat.st_ino as u64);
    Some((fd, Node { dev, ino }))
}

/// Returns whether the number is that of a queue with AgentFS watches, or of a file that such a watch hangs
/// on.
#[inline]
pub(super) fn is_marked(fd: RawFd) -> bool {
    fd_table::get(fd) == Owner::Kqueue
}

/// Notes such a number. Returns false when it is too large to remember.
pub(super) fn mark(fd: RawFd) -> bool {
    fd_table::set(fd, Owner::Kqueue)
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}
