//! The shared region, byte for byte. `docs/ring-abi.md` describes the same for readers of other
//! languages; change both together, and [`VERSION`] with them.
//!
//! ```text
//!        0  Header        identity and geometry, written once before the region is shared
//!      128  tail          producer's word, on a cache line pair of its own
//!      256  refill_at     producer's word
//!      384  rung          producer's word, which readers that know it may look at
//!   65 536  head          consumer's words, on pages of their own: all else is mapped read-only
//!   65 664  wake_at         where the consumer lives
//!   65 792  owner
//!  131 072  records       `capacity` bytes of frames
//! ```

use crate::position::{Capacity, CapacityError, Position};
use crate::sync::AtomicU64;

/// The first eight bytes of a region.
pub(crate) const MAGIC: [u8; 8] = *b"AgFsRing";

/// The only version so far.
pub(crate) const VERSION: u32 = 1;

/// How long the header is.
const HEADER_LEN: u32 = 40;

/// Where the consumer's words start. 64 KiB is a multiple of every page size in use, so that the
/// layout is the same on all of them; pages never touched cost no memory.
pub(crate) const CONSUMER_OFFSET: usize = 64 << 10;

/// Where the records start.
pub(crate) const DATA_OFFSET: usize = 128 << 10;

/// How long a region is.
pub(crate) const fn region_len(capacity: Capacity) -> usize {
    DATA_OFFSET + capacity.bytes()
}

/// Identity and geometry. Integers are in the machine's own byte order: a region never leaves it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
    pub(crate) header_len: u32,
    pub(crate) capacity: u64,
    pub(crate) consumer_offset: u64,
    pub(crate) data_offset: u64,
}

/// A header that this version of the ring cannot work with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HeaderError {
    Magic([u8; 8]),
    Version(u32),
    Geometry,
    Capacity(CapacityError),
}

impl Header {
    pub(crate) const fn new(capacity: Capacity) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            header_len: HEADER_LEN,
            capacity: capacity.get(),
            consumer_offset: CONSUMER_OFFSET as u64,
            data_offset: DATA_OFFSET as u64,
        }
    }

    /// Checks every field; whatever passes describes a region that this code can index.
    pub(crate) fn validate(&self) -> Result<Capacity, HeaderError> {
        if self.magic != MAGIC {
            return Err(HeaderError::Magic(self.magic));
        }
        if self.version != VERSION {
            return Err(HeaderError::Version(self.version));
        }
        let capacity = usize::try_from(self.capacity).map_err(|_| HeaderError::Geometry)?;
        let capacity = Capacity::new(capacity).map_err(HeaderError::Capacity)?;
        let ours = Self::new(capacity);
        let geometry = |h: &Self| (h.header_len, h.consumer_offset, h.data_offset);
        if geometry(self) != geometry(&ours) {
            return Err(HeaderError::Geometry);
        }
        Ok(capacity)
    }
}

/// A value on a cache line pair of its own: 128 bytes, because x86 prefetches lines in pairs and
/// Apple's have 128. Fixed here rather than taken from `crossbeam_utils::CachePadded`, whose
/// alignment depends on the target, because it is part of the ABI.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// What the producer writes and the consumer maps read-only.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ProducerPage {
    pub(crate) header: Padded<Header>,
    pub(crate) tail: Padded<AtomicU64>,
    pub(crate) refill_at: Padded<AtomicU64>,
    pub(crate) rung: Padded<AtomicU64>,
}

/// What the consumer writes.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ConsumerPage {
    pub(crate) head: Padded<AtomicU64>,
    pub(crate) wake_at: Padded<AtomicU64>,
    pub(crate) owner: Padded<AtomicU64>,
}

impl ProducerPage {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            header: Padded(Header::new(capacity)),
            tail: Padded(AtomicU64::new(Position::START.get())),
            refill_at: Padded(AtomicU64::new(Position::NEVER.get())),
            rung: Padded(AtomicU64::new(Position::START.get())),
        }
    }
}

impl ConsumerPage {
    pub(crate) fn new() -> Self {
        Self {
            head: Padded(AtomicU64::new(Position::START.get())),
            wake_at: Padded(AtomicU64::new(Position::NEVER.get())),
            owner: Padded(AtomicU64::new(0)),
        }
    }
}

/// The eight bytes before each record, which hold its length and what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameHeader {
    /// Bytes of the record, without this header and without the bytes that fill the frame up.
    pub(crate) len: u32,
    pub(crate) kind: u32,
}

impl FrameHeader {
    /// Neither kind is 0: memory that nobody wrote is not a frame.
    pub(crate) const RECORD: u32 = 1;
    pub(crate) const PADDING: u32 = 2;

    /// No frame at all.
    pub(crate) const NONE: Self = Self { len: 0, kind: 0 };

    /// Bytes of the header itself.
    pub(crate) const SIZE: u64 = 8;

    #[inline]
    pub(crate) const fn to_word(self) -> u64 {
        self.len as u64 | (self.kind as u64) << 32
    }

    #[inline]
    pub(crate) const fn from_word(word: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
        Self {
            len: word as u32,
            kind: (word >> 32) as u32,
        }
    }

    /// Bytes from this frame to the next.
    #[inline]
    pub(crate) const fn frame_len(self) -> u64 {
        frame_len(self.len as u64)
    }
}

/// Bytes a record of `len` bytes takes: header, record, and what fills it up to eight.
#[inline]
pub(crate) const fn frame_len(len: u64) -> u64 {
    FrameHeader::SIZE + len.next_multiple_of(crate::position::ALIGN)
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Header>() == HEADER_LEN as usize);
    assert!(core::mem::offset_of!(ProducerPage, tail) == 128);
    assert!(core::mem::offset_of!(ProducerPage, refill_at) == 256);
    assert!(core::mem::offset_of!(ProducerPage, rung) == 384);
    assert!(size_of::<ProducerPage>() == 512);
    assert!(core::mem::offset_of!(ConsumerPage, head) == 0);
    assert!(core::mem::offset_of!(ConsumerPage, wake_at) == 128);
    assert!(core::mem::offset_of!(ConsumerPage, owner) == 256);
    assert!(size_of::<ConsumerPage>() == 384);
    assert!(size_of::<ProducerPage>() <= CONSUMER_OFFSET);
    assert!(CONSUMER_OFFSET + size_of::<ConsumerPage>() <= DATA_OFFSET);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_refuses_each_field_that_is_off() {
        let good = Header::new(Capacity::DEFAULT);
        assert_eq!(good.validate(), Ok(Capacity::DEFAULT));
        let check = |change: fn(&mut Header)| {
            let mut header = good;
            change(&mut header);
            header.validate().expect_err("a changed header")
        };
        assert_eq!(
            check(|h| h.magic[7] = b'!'),
            HeaderError::Magic(*b"AgFsRin!")
        );
        assert_eq!(check(|h| h.version = 2), HeaderError::Version(2));
        assert_eq!(check(|h| h.header_len = 0), HeaderError::Geometry);
        assert_eq!(check(|h| h.consumer_offset += 4096), HeaderError::Geometry);
        assert_eq!(check(|h| h.data_offset = 0), HeaderError::Geometry);
        assert!(matches!(
            check(|h| h.capacity = 12_345),
            HeaderError::Capacity(_)
        ));
        assert!(matches!(
            check(|h| h.capacity = 1 << 31),
            HeaderError::Capacity(_)
        ));
    }

    #[test]
    fn frame_header_survives_its_word() {
        let header = FrameHeader {
            len: 0xdead_beef,
            kind: FrameHeader::PADDING,
        };
        assert_eq!(FrameHeader::from_word(header.to_word()), header);
        assert_eq!(FrameHeader { len: 0, kind: 1 }.frame_len(), 8);
        assert_eq!(FrameHeader { len: 1, kind: 1 }.frame_len(), 16);
        assert_eq!(FrameHeader { len: 64, kind: 1 }.frame_len(), 72);
    }
}
