//! The queues of the process by descriptor number.

use std::collections::BTreeMap;
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::queue::Queue;
use crate::sys;

static QUEUES: Mutex<BTreeMap<RawFd, Arc<Queue>>> = Mutex::new(BTreeMap::new());

fn queues() -> MutexGuard<'static, BTreeMap<RawFd, Arc<Queue>>> {
    QUEUES.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn open() -> Result<RawFd, Errno> {
    let (queue, fd) = Queue::new()?;
    let fd = fd.into_raw_fd();
    queues().insert(fd, queue);
    Ok(fd)
}

pub(crate) fn find(fd: RawFd) -> Option<Arc<Queue>> {
    queues().get(&fd).map(Arc::clone)
}

/// Returns every queue once. No lock is held while the caller works on them.
pub(crate) fn all() -> Vec<Arc<Queue>> {
    let mut all: Vec<_> = queues().values().map(Arc::clone).collect();
    all.sort_by_key(Arc::as_ptr);
    all.dedup_by(|a, b| Arc::ptr_eq(a, b));
    all
}

/// Forgets what hangs on the number `fd`, which is about to be closed.
fn forget(fd: RawFd) {
    let queue = queues().remove(&fd);
    if let Some(queue) = queue
        && !queues().values().any(|other| Arc::ptr_eq(other, &queue))
    {
        queue.close();
    }
    for queue in all() {
        queue.descriptor_closed(fd);
    }
}

pub(crate) fn close(fd: RawFd) -> Result<(), Errno> {
    forget(fd);
    sys::close(fd)
}

pub(crate) fn dup2(old: RawFd, new: RawFd) -> Result<RawFd, Errno> {
    if old != new {
        forget(new);
    }
    let new = sys::dup2(old, new)?;
    if let Some(queue) = find(old) {
        queues().insert(new, queue);
    }
    Ok(new)
}
