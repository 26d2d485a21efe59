//! A request channel's memory, mapped. `docs/shim-protocol.md` has it as a table.
#![expect(
    unsafe_code,
    reason = "turns offsets of a mapping into references to atomics"
)]
#![expect(
    clippy::cast_ptr_alignment,
    reason = "mappings are page-aligned, offsets are asserted"
)]

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::os::fd::OwnedFd;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::fstat;

use super::{REQUEST_WORDS, Request, RequestReader, RequestWriter};
use crate::mapping::{MapError, OpenError, anonymous, check_seals, seal};

/// Slots of a channel.
pub const SLOTS: u32 = 4096;

const MAGIC: u64 = u64::from_be_bytes(*b"AGFSREQ1");
const SLOTS_OFFSET: usize = 4096;

/// The first page of a region. What is between the words is atomic, too, because another process may write
/// there.
#[repr(C)]
struct Header {
    magic: AtomicU64,
    slots: AtomicU32,
    slot_bytes: AtomicU32,
    _to_tail: [AtomicU8; 48],
    tail: AtomicU64,
    _to_head: [AtomicU8; 56],
    head: AtomicU64,
    _to_lock: [AtomicU8; 56],
    lock: AtomicU64,
    _to_delivered: [AtomicU8; 56],
    delivered: AtomicU64,
}

type Slot = [AtomicU64; REQUEST_WORDS];

const SLOT_BYTES: u32 = 32;

const _: () = {
    assert!(size_of::<Slot>() == SLOT_BYTES as usize);
    assert!(size_of::<Header>() <= SLOTS_OFFSET);
    assert!(SLOTS_OFFSET.is_multiple_of(align_of::<Slot>()));
    assert!(core::mem::offset_of!(Header, tail) == 64);
    assert!(core::mem::offset_of!(Header, head) == 128);
    assert!(core::mem::offset_of!(Header, lock) == 192);
    assert!(core::mem::offset_of!(Header, delivered) == 256);
};

const REGION_LEN: usize = SLOTS_OFFSET + SLOTS as usize * SLOT_BYTES as usize;

/// A mapping of at least [`REGION_LEN`] bytes, page-aligned.
#[derive(Debug)]
pub(super) struct Region(MmapRaw);

impl Region {
    fn map(fd: &OwnedFd) -> Result<Self, MapError> {
        let map = MmapOptions::new().len(REGION_LEN).map_raw(fd);
        map.map(Self).map_err(MapError::at("map memory"))
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping is page-aligned and longer than a header, lives as long as `self`, and
        // every field is made of atomics, for which any bits are a value.
        unsafe { &*self.0.as_ptr().cast::<Header>() }
    }

    fn slot(&self, position: u64) -> &Slot {
        #[expect(clippy::cast_possible_truncation, reason = "less than SLOTS")]
        let index = (position % u64::from(SLOTS)) as usize;
        // SAFETY: the index is less than SLOTS, so the offset is inside the mapping.
        let at = unsafe {
            self.0
                .as_ptr()
                .add(SLOTS_OFFSET + index * size_of::<Slot>())
        };
        // SAFETY: aligned (asserted above), inside the mapping, and made of atomics.
        unsafe { &*at.cast::<Slot>() }
    }

    pub(super) fn slots(&self) -> u64 {
        u64::from(SLOTS)
    }

    pub(super) fn tail(&self) -> &AtomicU64 {
        &self.header().tail
    }

    pub(super) fn head(&self) -> &AtomicU64 {
        &self.header().head
    }

    pub(super) fn lock(&self) -> &AtomicU64 {
        &self.header().lock
    }

    pub(super) fn delivered(&self) -> &AtomicU64 {
        &self.header().delivered
    }

    /// Copies a slot: what is judged is what is used, whatever the program writes meanwhile.
    pub(super) fn read(&self, position: u64) -> Request {
        // Relaxed: ORDERING[request_observe] of the tail beyond it came before.
        self.slot(position)
            .each_ref()
            .map(|word| word.load(Ordering::Relaxed))
    }

    pub(super) fn write(&self, position: u64, request: Request) {
        for (word, value) in self.slot(position).iter().zip(request) {
            // Relaxed: ORDERING[request_publish] of the tail beyond it comes after.
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// Makes a channel. The descriptor goes to the program, which opens it with
/// [`RequestWriter::open`].
///
/// # Errors
/// [`MapError`] when the system refuses memory or descriptors.
///
/// # Examples
/// ```
/// use agentfs_ring::OwnerId;
/// use agentfs_ring::requests::{RequestWriter, Sent, create};
///
/// let (mut reader, fd) = create()?;
/// let writer = RequestWriter::open(fd)?; // in the program
/// let me = OwnerId::this_process();
/// assert_eq!(writer.send([1, 2, 3, 4], me, |_| true), Sent::Sent);
///
/// assert_eq!(reader.next()?, Some([1, 2, 3, 4]));
/// assert_eq!(reader.next()?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn create() -> Result<(RequestReader, OwnedFd), MapError> {
    let fd = anonymous(REGION_LEN as u64)?;
    let region = Region::map(&fd)?;
    let header = region.header();
    // Relaxed: the program sees the region after the message that its descriptor comes with.
    header.magic.store(MAGIC, Ordering::Relaxed);
    header.slots.store(SLOTS, Ordering::Relaxed);
    header.slot_bytes.store(SLOT_BYTES, Ordering::Relaxed);
    seal(&fd)?;
    Ok((RequestReader::new(region), fd))
}

impl RequestWriter {
    /// Maps a channel.
    ///
    /// # Errors
    /// [`OpenError`] when the descriptor holds no such channel.
    ///
    /// # Examples
    /// ```
    /// use agentfs_ring::{Capacity, requests};
    ///
    /// let (_reader, fd) = requests::create()?;
    /// assert!(requests::RequestWriter::open(fd).is_ok());
    ///
    /// let (_producer, ring) = agentfs_ring::create(Capacity::DEFAULT)?;
    /// assert!(requests::RequestWriter::open(ring).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(fd: OwnedFd) -> Result<Self, OpenError> {
        check_seals(&fd)?;
        let stat = fstat(&fd)
            .map_err(MapError::at("look at the memory"))
            .map_err(OpenError::Map)?;
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        let needed = REGION_LEN as u64;
        if found < needed {
            return Err(OpenError::TooSmall { found, needed });
        }
        let region = Region::map(&fd).map_err(OpenError::Map)?;
        let header = region.header();
        let magic = header.magic.load(Ordering::Relaxed);
        if magic != MAGIC {
            return Err(OpenError::BadMagic(magic.to_ne_bytes()));
        }
        let slots = header.slots.load(Ordering::Relaxed);
        let slot_bytes = header.slot_bytes.load(Ordering::Relaxed);
        if (slots, slot_bytes) != (SLOTS, SLOT_BYTES) {
            return Err(OpenError::Geometry);
        }
        Ok(Self::new(region))
    }
}
