//! A region in mapped memory.
#![expect(
    unsafe_code,
    reason = "the only place that turns offsets of a mapping into references to atomics"
)]
#![expect(
    clippy::cast_ptr_alignment,
    reason = "mappings are page-aligned, offsets are asserted"
)]

use core::fmt;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use memmap2::{MmapMut, MmapRaw};

use crate::layout::{
    CONSUMER_OFFSET, ConsumerPage, DATA_OFFSET, FrameHeader, Header, ProducerPage, region_len,
};
use crate::position::{Capacity, Position};

/// What keeps the memory mapped. Never looked at again: the region's pointers lead into it.
#[derive(Clone)]
#[expect(dead_code, reason = "held for its drop")]
enum Mapping {
    /// One writable mapping of everything: the producer's, or both ends' within one process.
    Whole(Arc<MmapRaw>),
    /// Everything read-only, and the consumer's words writable.
    Split {
        all: Arc<MmapRaw>,
        words: Arc<MmapRaw>,
    },
}

/// A mapped region: pointers to its parts, valid as long as the mapping that it holds.
///
/// No reference is ever made to anything but single atomics, because another process may write anything
/// anywhere at any time, by the protocol or against it.
pub(crate) struct Region {
    /// The producer's page.
    producer: NonNull<u8>,
    /// The consumer's page.
    consumer: NonNull<u8>,
    /// The record area.
    data: NonNull<u8>,
    capacity: Capacity,
    mapping: Mapping,
}

// SAFETY: the memory is shared with other threads and processes by design: all that is reachable through
// a region are atomics, whatever thread an end runs on.
unsafe impl Send for Region {}

// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Makes the producer's view: everything writable.
    ///
    /// `map` must be [`region_len`] bytes long and zeroed; the words and the header are set up here.
    pub(crate) fn initialize(map: MmapRaw, capacity: Capacity) -> Self {
        assert!(
            map.len() >= region_len(capacity),
            "the mapping is as long as its region"
        );
        let base = map.as_mut_ptr();
        let page = base.cast::<ProducerPage>();
        // SAFETY: the mapping is page-aligned, writable and at least `region_len` bytes long, which
        // covers both pages (asserted in layout.rs); nobody else has it yet.
        unsafe { page.write(ProducerPage::new(capacity)) };
        // SAFETY: the offset lies inside the mapping.
        let words = unsafe { base.add(CONSUMER_OFFSET) };
        // SAFETY: as for the producer's page; CONSUMER_OFFSET is a multiple of the alignment.
        unsafe { words.cast::<ConsumerPage>().write(ConsumerPage::new()) };
        // SAFETY: as above: both parts lie inside the mapping.
        unsafe { Self::from_parts(base, words, capacity, Mapping::Whole(Arc::new(map))) }
    }

    /// Makes the consumer's view: `all` read-only, `words` the consumer's page writable.
    pub(crate) fn attach(all: MmapRaw, words: MmapRaw, capacity: Capacity) -> Self {
        assert!(
            all.len() >= region_len(capacity),
            "the mapping is as long as its region"
        );
        assert!(
            words.len() >= size_of::<ConsumerPage>(),
            "the consumer's page is mapped whole"
        );
        let (base, page) = (all.as_mut_ptr(), words.as_mut_ptr());
        let mapping = Mapping::Split {
            all: Arc::new(all),
            words: Arc::new(words),
        };
        // SAFETY: asserted above; both mappings are page-aligned.
        unsafe { Self::from_parts(base, page, capacity, mapping) }
    }

    /// # Safety
    /// `base` and `words` lead to a region of this capacity and to its consumer page, both inside
    /// what `mapping` keeps mapped.
    unsafe fn from_parts(
        base: *mut u8,
        words: *mut u8,
        capacity: Capacity,
        mapping: Mapping,
    ) -> Self {
        // SAFETY: the caller's promise: DATA_OFFSET lies inside the mapping.
        let data = unsafe { base.add(DATA_OFFSET) };
        Self {
            // SAFETY: a mapping is never at address 0.
            producer: unsafe { NonNull::new_unchecked(base) },
            // SAFETY: as above.
            consumer: unsafe { NonNull::new_unchecked(words) },
            // SAFETY: as above.
            data: unsafe { NonNull::new_unchecked(data) },
            capacity,
            mapping,
        }
    }

    /// Makes both ends over ordinary memory of this process.
    pub(crate) fn in_process(capacity: Capacity) -> std::io::Result<(Self, Self)> {
        let region = Self::initialize(MmapMut::map_anon(region_len(capacity))?.into(), capacity);
        let twin = Self {
            mapping: region.mapping.clone(),
            ..region
        };
        Ok((region, twin))
    }

    /// Returns a copy of the header of a mapping that nobody has validated yet.
    ///
    /// The bytes are read once: what is validated is what is used.
    pub(crate) fn peek_header(all: &MmapRaw) -> Option<Header> {
        if all.len() < DATA_OFFSET {
            return None;
        }
        let header = all.as_ptr().cast::<Header>();
        // SAFETY: the mapping is page-aligned and long enough, and any bytes are a Header; volatile
        // because another process may write there.
        Some(unsafe { header.read_volatile() })
    }

    #[inline]
    pub(crate) fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// # Safety
    /// `at` is a multiple of eight, and eight bytes from there lie inside what `self` keeps mapped.
    #[inline]
    unsafe fn atomic(&self, at: NonNull<u8>) -> &AtomicU64 {
        // SAFETY: the caller's promise; the mapping lives as long as `self`, and its bytes are never touched
        // but as these atomics once the region is made.
        unsafe { AtomicU64::from_ptr(at.cast::<u64>().as_ptr()) }
    }

    #[inline]
    fn producer_word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset < size_of::<ProducerPage>());
        // SAFETY: the offset of a word of the producer's page, which lies inside the mapping.
        let at = unsafe { self.producer.add(offset) };
        // SAFETY: as above.
        unsafe { self.atomic(at) }
    }

    #[inline]
    fn consumer_word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset < size_of::<ConsumerPage>());
        // SAFETY: the offset of a word of the consumer's page, which lies inside its mapping.
        let at = unsafe { self.consumer.add(offset) };
        // SAFETY: as above.
        unsafe { self.atomic(at) }
    }

    #[inline]
    pub(crate) fn tail(&self) -> &AtomicU64 {
        self.producer_word(offset_of!(ProducerPage, tail))
    }

    #[inline]
    pub(crate) fn refill_at(&self) -> &AtomicU64 {
        self.producer_word(offset_of!(ProducerPage, refill_at))
    }

    #[inline]
    pub(crate) fn rung(&self) -> &AtomicU64 {
        self.producer_word(offset_of!(ProducerPage, rung))
    }

    #[inline]
    pub(crate) fn head(&self) -> &AtomicU64 {
        self.consumer_word(offset_of!(ConsumerPage, head))
    }

    #[inline]
    pub(crate) fn wake_at(&self) -> &AtomicU64 {
        self.consumer_word(offset_of!(ConsumerPage, wake_at))
    }

    #[inline]
    pub(crate) fn owner(&self) -> &AtomicU64 {
        self.consumer_word(offset_of!(ConsumerPage, owner))
    }

    #[inline]
    fn data_word(&self, at: Position) -> &AtomicU64 {
        // What is no multiple of eight is rounded down, so that no position reaches beyond the area.
        let offset = self.capacity.offset(at) & !7;
        // SAFETY: the offset is below the capacity, and the record area is that long.
        let at = unsafe { self.data.add(offset) };
        // SAFETY: a multiple of eight below the capacity, which is one too, so eight bytes lie there.
        unsafe { self.atomic(at) }
    }

    /// Reads a frame header, once. It may say anything: the consumer checks it.
    #[inline]
    pub(crate) fn frame_header(&self, at: Position) -> FrameHeader {
        FrameHeader::from_word(self.word(at))
    }

    /// Reads eight bytes of a record, which may say anything.
    #[inline]
    pub(crate) fn word(&self, at: Position) -> u64 {
        // Relaxed: FENCE[observe] after a load of the tail beyond it came before. A reader without a claim
        // may be too late, and throws its copy away then: ORDERING[take].
        self.data_word(at).load(Ordering::Relaxed)
    }

    /// Writes a frame header. The producer's, on its writable mapping.
    #[inline]
    pub(crate) fn set_frame_header(&self, at: Position, header: FrameHeader) {
        self.set_word(at, header.to_word());
    }

    /// Writes eight bytes of a record. The producer's, on its writable mapping.
    #[inline]
    pub(crate) fn set_word(&self, at: Position, word: u64) {
        // Relaxed: ORDERING[publish] of the tail beyond it comes after.
        self.data_word(at).store(word, Ordering::Relaxed);
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("capacity", &self.capacity)
            .field("tail", self.tail())
            .field("refill_at", self.refill_at())
            .field("rung", self.rung())
            .field("head", self.head())
            .field("wake_at", self.wake_at())
            .field("owner", self.owner())
            .finish_non_exhaustive()
    }
}
