//! The refill doorbells of all queues, for which the event loop waits.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;

use agentfs_engine::Queue;
use agentfs_ring::doorbell::Waiter;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use parking_lot::Mutex;

use crate::base::refill_id::RefillId;

/// The doorbells that programs ring when their rings have room again.
#[derive(Debug)]
pub(crate) struct Refills {
    registry: Registry,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    doorbells: HashMap<RefillId, (Arc<Queue>, Waiter)>,
    last: u64,
}

impl Refills {
    pub(crate) fn new(registry: Registry) -> Self {
        Self {
            registry,
            open: Mutex::default(),
        }
    }

    /// Adds a doorbell, for which the event loop waits from now on.
    pub(crate) fn insert(&self, queue: &Arc<Queue>, doorbell: Waiter) -> io::Result<RefillId> {
        let mut open = self.open.lock();
        let id = RefillId(open.last + 1);
        let fd = doorbell.as_fd().as_raw_fd();
        self.registry
            .register(&mut SourceFd(&fd), id.token(), Interest::READABLE)?;
        open.last = id.0;
        open.doorbells.insert(id, (Arc::clone(queue), doorbell));
        Ok(id)
    }

    pub(crate) fn remove(&self, id: RefillId) {
        let Some((_, doorbell)) = self.open.lock().doorbells.remove(&id) else {
            return;
        };
        let fd = doorbell.as_fd().as_raw_fd();
        if let Err(error) = self.registry.deregister(&mut SourceFd(&fd)) {
            tracing::warn!(%error, "a refill doorbell cannot be forgotten");
        }
    }

    /// Returns the queue whose doorbell was rung.
    pub(crate) fn rung(&self, id: RefillId) -> Option<Arc<Queue>> {
        let open = self.open.lock();
        let (queue, doorbell) = open.doorbells.get(&id)?;
        clear(doorbell);
        Some(Arc::clone(queue))
    }
}

/// Does nothing: the program holds the same eventfd, and could have made it blocking and empty.
/// Every ring wakes the event loop anew, and the count has room for all of them.
#[cfg(target_os = "linux")]
fn clear(_: &Waiter) {}

/// Empties the pipe, which would be full one day. No other process has its reading end.
#[cfg(not(target_os = "linux"))]
fn clear(doorbell: &Waiter) {
    if let Err(error) = doorbell.clear() {
        tracing::warn!(%error, "a refill doorbell cannot be cleared");
    }
}
