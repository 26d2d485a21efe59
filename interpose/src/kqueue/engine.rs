//! The program's kqueues, and what happens to descriptors.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use super::abi::{self, Flavour, Layout};
use super::daemon::{Daemon, Node};
use super::fd_set::{FdSet, HIDDEN};
use super::kernel::{Call, Errno, Originals, Real};
use super::lock::{self, Lock};
use super::queue::Queue;

/// Everything the hooks of the kevent family need to know.
#[derive(Debug)]
pub struct Engine<D> {
    pub(super) originals: Originals,
    pub(super) daemon: D,
    /// Descriptors of queues with AgentFS watches: the look-up of the fast path.
    pub(super) ours: FdSet,
    /// Descriptors that such a watch hangs on.
    pub(super) watched: FdSet,
    queues: Lock<BTreeMap<RawFd, Arc<Queue>>>,
}

impl<D: Daemon> Engine<D> {
    /// An engine without queues.
    pub const fn new(originals: Originals, daemon: D) -> Self {
        Self {
            originals,
            daemon,
            ours: FdSet::new(),
            watched: FdSet::new(),
            queues: Lock::new(lock::REGISTRY, BTreeMap::new()),
        }
    }

    /// The connection it was made with.
    pub fn daemon(&self) -> &D {
        &self.daemon
    }

    pub(super) fn find(&self, kq: RawFd) -> Option<Arc<Queue>> {
        if !self.ours.contains(kq) {
            return None;
        }
        self.queues.lock()?.get(&kq).map(Arc::clone)
    }

    /// The AgentFS file behind a descriptor.
    pub(super) fn node(&self, ident: u64) -> Option<Node> {
        let fd = RawFd::try_from(ident).ok().filter(|fd| *fd >= 0)?;
        #[expect(unsafe_code, reason = "the number comes from the program")]
        // SAFETY: it is not -1, and only handed to fstat(2), which checks it.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let stat = rustix::fs::fstat(fd).ok()?;
        // The types differ between systems; dev_t is signed on macOS.
        let (dev, ino) = (stat.st_dev as u64, stat.st_ino as u64);
        self.daemon.covers(dev).then_some(Node { dev, ino })
    }

    /// Whether any change of the call puts a watch on an AgentFS file.
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

    /// The queue of `kq`, made if there is a daemon to make it for.
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
        if known.is_none() && self.ours.insert(kq) {
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

    /// kqueue(2) or guarded_kqueue_np returned `kq`: what the number meant before is over, even if no
    /// hook saw it close.
    pub fn opened(&self, kq: RawFd) {
        self.forget_queue(kq);
    }

    /// Whether `fd` is a descriptor of ours: the program has not opened it and cannot close it.
    #[inline]
    pub fn hides(&self, fd: RawFd) -> bool {
        HIDDEN.contains(fd)
    }

    /// The program is about to close `fd`, by close(2) or by dup2(2) over it.
    #[inline]
    pub fn closing(&self, fd: RawFd) {
        if self.ours.contains(fd) {
            self.forget_queue(fd);
        }
        if self.watched.contains(fd) {
            self.watched.remove(fd);
            for queue in self.all() {
                queue.descriptor_closes(&self.daemon, fd);
            }
        }
    }

    /// dup(2), dup2(2) or fcntl(2) made `new` another number of `old`.
    pub fn duplicated(&self, old: RawFd, new: RawFd) {
        let Some(queue) = self.find(old) else {
            return;
        };
        if let Some(mut queues) = self.queues.lock()
            && self.ours.insert(new)
        {
            queues.insert(new, queue);
        }
    }

    /// The program wants the number `fd` for itself (dup2(2)): if it is one of ours, it becomes free.
    pub fn vacate(&self, fd: RawFd) {
        if !self.hides(fd) {
            return;
        }
        for queue in self.all() {
            if queue.doorbell_fd() == Some(fd) {
                // A queue that cannot move loses its doorbell, not the program its number.
                let _moved = queue.yield_doorbell(&self.originals);
            }
        }
    }

    /// Runs fork(2). The child has no kqueues, as the kernel sees to, and no doorbells.
    pub fn fork(&self, real: impl FnOnce() -> i32) -> i32 {
        let guard = self.queues.lock();
        let result = real();
        if result != 0 {
            return result;
        }
        self.ours.clear();
        self.watched.clear();
        if let Some(mut queues) = guard {
            // Other threads of the parent may have been anywhere in these: they are left as they are.
            let queues = ManuallyDrop::new(std::mem::take(&mut *queues));
            for fd in queues.values().filter_map(|queue| queue.doorbell_fd()) {
                #[expect(unsafe_code, reason = "the owner of the descriptor is never dropped")]
                // SAFETY: it is ours, and in this process nobody uses it any more.
                unsafe {
                    rustix::io::close(fd);
                }
            }
        }
        HIDDEN.clear();
        result
    }

    /// The daemon is back: each queue gets a new channel, everything is registered again and every knote
    /// is told to look.
    pub fn reconnect(&self) {
        for queue in self.all() {
            if let Some(opened) = self.daemon.open_queue() {
                // What the kernel refuses is closed.
                let _refused = queue.reconnect(&self.originals, &self.daemon, opened);
            }
        }
    }

    /// Each queue once, without the table's lock.
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
        if !self.ours.remove(kq) {
            return;
        }
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

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}
