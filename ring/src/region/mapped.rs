//! A region in mapped memory.
#![expect(
    unsafe_code,
    reason = "the only place that turns offsets of a mapping into references"
)]
#![expect(
    clippy::cast_ptr_alignment,
    reason = "mappings are page-aligned, offsets are asserted"
)]

use core::fmt;
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
pub(crate) struct Region {
    producer: NonNull<ProducerPage>,
    consumer: NonNull<ConsumerPage>,
    data: NonNull<u8>,
    capacity: Capacity,
    mapping: Mapping,
}

// SAFETY: the memory is shared with other threads and processes by design: every shared word is an
// atomic, and which end may touch which bytes of the record area is the ring's protocol, whatever
// thread an end runs on.
unsafe impl Send for Region {}

// SAFETY: through `&Region` only atomics are reachable safely; the methods that reach record bytes
// are unsafe and put the protocol on their caller.
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
            producer: unsafe { NonNull::new_unchecked(base.cast()) },
            // SAFETY: as above.
            consumer: unsafe { NonNull::new_unchecked(words.cast()) },
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

    #[inline]
    fn producer_page(&self) -> &ProducerPage {
        // SAFETY: valid for the life of the mapping that `self` holds; all that changes behind the
        // reference are atomics.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer_page(&self) -> &ConsumerPage {
        // SAFETY: as for the producer's page.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    pub(crate) fn tail(&self) -> &AtomicU64 {
        &self.producer_page().tail.0
    }

    #[inline]
    pub(crate) fn refill_at(&self) -> &AtomicU64 {
        &self.producer_page().refill_at.0
    }

    #[inline]
    pub(crate) fn rung(&self) -> &AtomicU64 {
        &self.producer_page().rung.0
    }

    #[inline]
    pub(crate) fn head(&self) -> &AtomicU64 {
        &self.consumer_page().head.0
    }

    #[inline]
    pub(crate) fn wake_at(&self) -> &AtomicU64 {
        &self.consumer_page().wake_at.0
    }

    #[inline]
    pub(crate) fn owner(&self) -> &AtomicU64 {
        &self.consumer_page().owner.0
    }

    #[inline]
    fn byte(&self, at: Position) -> NonNull<u8> {
        // SAFETY: `offset` is below the capacity, and the record area is that long.
        unsafe { self.data.add(self.capacity.offset(at)) }
    }

    #[inline]
    fn header_word(&self, at: Position) -> &AtomicU64 {
        debug_assert!(at.is_aligned());
        // SAFETY: `at` is a multiple of 8 and so is the capacity, so eight aligned bytes lie there. Frame
        // headers are only ever touched as atomics. The bytes of records are written by the producer as
        // bytes, and while it does that, a reader that is too late may load them: through its own mapping,
        // in another process, where it is one load of eight bytes that may say anything.
        unsafe { AtomicU64::from_ptr(self.byte(at).cast::<u64>().as_ptr()) }
    }

    /// Reads a frame header, once. It may say anything: the consumer checks it.
    #[inline]
    pub(crate) fn frame_header(&self, at: Position) -> FrameHeader {
        // Relaxed: ORDERING[observe] of the tail beyond it came before.
        FrameHeader::from_word(self.header_word(at).load(Ordering::Relaxed))
    }

    /// Copies eight bytes of a record, which the producer may be writing over: then the copy is thrown
    /// away.
    #[inline]
    pub(crate) fn word(&self, at: Position) -> u64 {
        // Relaxed: ORDERING[observe] of the tail beyond it came before, and ORDERING[take] comes after.
        self.header_word(at).load(Ordering::Relaxed)
    }

    /// Writes a frame header. The producer's, on its writable mapping.
    #[inline]
    pub(crate) fn set_frame_header(&self, at: Position, header: FrameHeader) {
        // Relaxed: ORDERING[publish] of the tail beyond it comes after.
        self.header_word(at)
            .store(header.to_word(), Ordering::Relaxed);
    }

    /// Returns the bytes of a record that is being written.
    ///
    /// # Safety
    /// - The caller is the producer, and holds no other slot.
    /// - The `len` bytes from `at` lie inside the record area without wrapping and are free.
    #[inline]
    pub(crate) unsafe fn slot_mut(&self, at: Position, len: usize) -> SlotMut<'_> {
        debug_assert!(len as u64 <= self.capacity.to_end(at));
        // SAFETY: by the caller's promise no consumer reads these bytes (they are free) and nobody
        // else writes them (one producer, one slot). They were zeroed when mapped, so initialised.
        // A consumer that maps the area writable against the protocol can change what we write,
        // which nobody in this process ever reads back.
        SlotMut(unsafe { core::slice::from_raw_parts_mut(self.byte(at).as_ptr(), len) })
    }

    /// Returns the bytes of a published record.
    ///
    /// # Safety
    /// - The caller is the claimed consumer.
    /// - The `len` bytes from `at` lie inside the record area without wrapping, were published, and
    ///   are not released while the slot lives.
    #[inline]
    pub(crate) unsafe fn slot(&self, at: Position, len: usize) -> Slot<'_> {
        debug_assert!(len as u64 <= self.capacity.to_end(at));
        // SAFETY: a producer leaves published bytes alone until they are released, which is the one
        // thing a consumer trusts it for (the daemon is trusted by the programs it serves); lengths
        // it is not trusted for, and the caller has checked them.
        Slot(unsafe { core::slice::from_raw_parts(self.byte(at).as_ptr(), len) })
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("capacity", &self.capacity)
            .field("producer", self.producer_page())
            .field("consumer", self.consumer_page())
            .finish_non_exhaustive()
    }
}

/// A slot being written.
#[derive(Debug)]
pub(crate) struct SlotMut<'a>(pub(crate) &'a mut [u8]);

impl SlotMut<'_> {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0
    }

    /// Ends the writing. (The model writes its copy back here.)
    #[inline]
    pub(crate) fn finish(self) {}
}

/// A slot being read.
#[derive(Debug)]
pub(crate) struct Slot<'a>(&'a [u8]);

impl Slot<'_> {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0
    }
}
