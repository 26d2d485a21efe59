//! A request channel's memory for loom: a slot is a cell, so that a write which no ordering
//! separates from a read is reported.
#![expect(
    unsafe_code,
    reason = "loom's cells check at run time what Sync promises"
)]

use core::fmt;
use std::sync::Arc;

use loom::cell::Cell;

use super::{Request, RequestReader, RequestWriter};
use crate::sync::AtomicU64;

struct Memory {
    tail: AtomicU64,
    head: AtomicU64,
    lock: AtomicU64,
    delivered: AtomicU64,
    slots: Vec<Cell<Request>>,
}

// SAFETY: loom reports every access to a cell that is not ordered after the last write to it, so a
// data race fails the model instead of being one.
unsafe impl Send for Memory {}

// SAFETY: as above.
unsafe impl Sync for Memory {}

#[derive(Clone)]
pub(super) struct Region(Arc<Memory>);

impl Region {
    pub(super) fn slots(&self) -> u64 {
        self.0.slots.len() as u64
    }

    pub(super) fn tail(&self) -> &AtomicU64 {
        &self.0.tail
    }

    pub(super) fn head(&self) -> &AtomicU64 {
        &self.0.head
    }

    pub(super) fn lock(&self) -> &AtomicU64 {
        &self.0.lock
    }

    pub(super) fn delivered(&self) -> &AtomicU64 {
        &self.0.delivered
    }

    fn slot(&self, position: u64) -> &Cell<Request> {
        &self.0.slots[usize::try_from(position % self.slots()).expect("few")]
    }

    pub(super) fn read(&self, position: u64) -> Request {
        self.slot(position).get()
    }

    pub(super) fn write(&self, position: u64, request: Request) {
        self.slot(position).set(request);
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").finish_non_exhaustive()
    }
}

/// Makes both ends of a channel of this many slots in a model's memory.
#[must_use]
pub fn in_process(slots: usize) -> (RequestReader, RequestWriter) {
    let region = Region(Arc::new(Memory {
        tail: AtomicU64::new(0),
        head: AtomicU64::new(0),
        lock: AtomicU64::new(super::UNLOCKED),
        delivered: AtomicU64::new(0),
        slots: (0..slots)
            .map(|_| Cell::new([0; super::REQUEST_WORDS]))
            .collect(),
    }));
    (
        RequestReader::new(region.clone()),
        RequestWriter::new(region),
    )
}
