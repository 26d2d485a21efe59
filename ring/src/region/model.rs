//! A region for loom: the shared words are loom's atomics, and every eight bytes of the record area
//! are one of loom's cells, so that an access which no ordering separates from another is reported.
#![expect(
    unsafe_code,
    reason = "loom's cells check at run time what Sync promises"
)]

use core::fmt;
use std::sync::Arc;

use loom::cell::Cell;

use crate::layout::{ConsumerPage, FrameHeader, ProducerPage};
use crate::position::{Capacity, Position};
use crate::sync::{AtomicU64, Ordering};

/// Eight bytes of the record area.
enum Word {
    /// What one end has at a time: loom reports an access that no ordering separates from a write.
    Owned(Cell<u64>),
    /// What readers without a claim may look at while it is written over.
    Shared(AtomicU64),
}

impl Word {
    fn get(&self) -> u64 {
        match self {
            Self::Owned(cell) => cell.get(),
            Self::Shared(word) => word.load(Ordering::Relaxed),
        }
    }

    fn set(&self, value: u64) {
        match self {
            Self::Owned(cell) => cell.set(value),
            Self::Shared(word) => word.store(value, Ordering::Relaxed),
        }
    }
}

struct Memory {
    producer: ProducerPage,
    consumer: ConsumerPage,
    words: Vec<Word>,
}

// SAFETY: loom reports every access to a cell that is not ordered after the last write to it, so a
// data race fails the model instead of being one.
unsafe impl Send for Memory {}

// SAFETY: as above.
unsafe impl Sync for Memory {}

#[derive(Clone)]
pub(crate) struct Region {
    memory: Arc<Memory>,
    capacity: Capacity,
}

impl Region {
    pub(crate) fn in_process(capacity: Capacity, is_shared: bool) -> (Self, Self) {
        let word = || {
            if is_shared {
                Word::Shared(AtomicU64::new(0))
            } else {
                Word::Owned(Cell::new(0))
            }
        };
        let region = Self {
            memory: Arc::new(Memory {
                producer: ProducerPage::new(capacity),
                consumer: ConsumerPage::new(),
                words: (0..capacity.bytes() / 8).map(|_| word()).collect(),
            }),
            capacity,
        };
        (region.clone(), region)
    }

    pub(crate) fn capacity(&self) -> Capacity {
        self.capacity
    }

    pub(crate) fn tail(&self) -> &AtomicU64 {
        &self.memory.producer.tail.0
    }

    pub(crate) fn refill_at(&self) -> &AtomicU64 {
        &self.memory.producer.refill_at.0
    }

    pub(crate) fn rung(&self) -> &AtomicU64 {
        &self.memory.producer.rung.0
    }

    pub(crate) fn head(&self) -> &AtomicU64 {
        &self.memory.consumer.head.0
    }

    pub(crate) fn wake_at(&self) -> &AtomicU64 {
        &self.memory.consumer.wake_at.0
    }

    pub(crate) fn owner(&self) -> &AtomicU64 {
        &self.memory.consumer.owner.0
    }

    fn cell(&self, at: Position) -> &Word {
        &self.memory.words[self.capacity.offset(at) / 8]
    }

    pub(crate) fn word(&self, at: Position) -> u64 {
        self.cell(at).get()
    }

    pub(crate) fn set_word(&self, at: Position, word: u64) {
        self.cell(at).set(word);
    }

    pub(crate) fn frame_header(&self, at: Position) -> FrameHeader {
        FrameHeader::from_word(self.word(at))
    }

    pub(crate) fn set_frame_header(&self, at: Position, header: FrameHeader) {
        self.set_word(at, header.to_word());
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
