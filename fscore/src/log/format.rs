//! The bytes of a log, as docs/store-format.md describes them. All integers are little endian.

use std::fmt;

use crc32fast::Hasher;

use super::{Kind, StoreId};

pub(super) const MAGIC: [u8; 8] = *b"AgFsWLog";
pub(super) const VERSION: u32 = 1;
pub(super) const SEGMENT_HEADER: usize = 64;
pub(super) const RECORD_HEADER: usize = 17;
/// Where a record has its number.
pub(super) const NUMBER_AT: usize = 8;

/// The most bytes that one record may carry. What is longer is split.
pub(super) const MAX_PAYLOAD: usize = 1 << 20;

/// The bits of the kind that are the caller's. All zero is a marker.
const KIND: u8 = 0x3f;
/// The record goes on in the next one.
pub(super) const IS_CONTINUED: u8 = 0x80;
/// The record goes on from the one before.
pub(super) const CONTINUES: u8 = 0x40;

/// The largest number of a record that is believed. No log gets there, and counting on from it does
/// not overflow.
pub(crate) const MOST_RECORDS: u64 = 1 << 62;

/// What a segment's name begins with; the number of its first record follows.
const PREFIX: &str = "log-";

/// The name under which a segment is prepared.
pub(super) const NEXT_SEGMENT: &str = "next-log";

pub(crate) fn segment_name(first: u64) -> String {
    format!("{PREFIX}{first:016x}")
}

/// Returns the number of the first record, if the name is that of a segment.
pub(super) fn first_of_name(name: &str) -> Option<u64> {
    let first = u64::from_str_radix(name.strip_prefix(PREFIX)?, 16).ok()?;
    (segment_name(first) == name && first <= MOST_RECORDS).then_some(first)
}

/// Returns whether a file with that name is a segment.
pub(crate) fn is_segment(name: &str) -> bool {
    first_of_name(name).is_some()
}

/// A start of the machine; one without a number is like none, also not like itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boot(pub(crate) Option<[u8; 16]>);

impl Boot {
    pub(super) fn is(self, other: Self) -> bool {
        self.0.is_some() && self.0 == other.0
    }
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) store: StoreId,
    pub(super) boot: Boot,
    /// The number of the first record.
    pub(super) first: u64,
    /// All records below this number, and the content they refer to, were on disk when the segment
    /// was begun.
    pub(super) durable: u64,
}

/// Why bytes are no header of this store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoHeader {
    /// They are torn, or damaged, or were never written.
    Broken,
    Newer(u32),
    Foreign(StoreId),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.store.0);
        bytes[32..48].copy_from_slice(&self.boot.0.unwrap_or_default());
        bytes[48..56].copy_from_slice(&self.first.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.durable.to_le_bytes());
        let checksum = Self::checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8], store: StoreId) -> Result<Self, NoHeader> {
        let bytes: &[u8; SEGMENT_HEADER] = bytes.try_into().map_err(|_| NoHeader::Broken)?;
        if bytes[0..8] != MAGIC {
            return Err(NoHeader::Broken);
        }
        // The place of the version stays the same in all versions, and the checksum's may not.
        let version = u32_at(bytes, 8);
        if version > VERSION {
            return Err(NoHeader::Newer(version));
        }
        if version != VERSION || u32_at(bytes, 12) != Self::checksum(bytes) {
            return Err(NoHeader::Broken);
        }
        let found = StoreId(array_at(bytes, 16));
        if found != store {
            return Err(NoHeader::Foreign(found));
        }
        let boot: [u8; 16] = array_at(bytes, 32);
        Ok(Self {
            store,
            boot: Boot((boot != [0; 16]).then_some(boot)),
            first: u64_at(bytes, 48),
            durable: u64_at(bytes, 56),
        })
    }

    fn checksum(bytes: &[u8; SEGMENT_HEADER]) -> u32 {
        let mut hasher = Hasher::new();
        hasher.update(&bytes[..12]);
        hasher.update(&bytes[16..]);
        hasher.finalize()
    }
}

/// Begins every record's checksum with the store's number, so that the bytes of another store's log
/// are no records of this one, nor are bytes that a program in a branch has made up: it does not
/// know the number.
#[derive(Clone)]
pub(super) struct Seal(Hasher);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    pub(super) fn new(store: StoreId) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(&store.0);
        Self(hasher)
    }

    fn checksum(&self, header: &[u8; RECORD_HEADER], payload: &[u8]) -> u32 {
        let mut hasher = self.0.clone();
        hasher.update(&header[0..4]);
        hasher.update(&header[8..]);
        hasher.update(payload);
        hasher.finalize()
    }

    /// Returns the header of a record.
    pub(super) fn header(&self, number: u64, kind: u8, payload: &[u8]) -> [u8; RECORD_HEADER] {
        let mut header = [0; RECORD_HEADER];
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        header[0..4].copy_from_slice(&len.to_le_bytes());
        header[NUMBER_AT..16].copy_from_slice(&number.to_le_bytes());
        header[16] = kind;
        let checksum = self.checksum(&header, payload);
        header[4..8].copy_from_slice(&checksum.to_le_bytes());
        header
    }

    /// Returns whether a header is that of its payload.
    pub(super) fn fits(&self, head: &RecordHeader, payload: &[u8]) -> bool {
        payload.len() == head.len && head.checksum == self.checksum(&head.bytes, payload)
    }
}

/// What a record says of itself before its checksum has been looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    pub(super) len: usize,
    checksum: u32,
    pub(super) number: u64,
    kind: u8,
    bytes: [u8; RECORD_HEADER],
}

impl RecordHeader {
    /// Reads the header at the start of some bytes, if there can be one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; RECORD_HEADER] = *bytes.first_chunk()?;
        let head = Self {
            len: usize::try_from(u32_at(&bytes, 0)).ok()?,
            checksum: u32_at(&bytes, 4),
            number: u64_at(&bytes, NUMBER_AT),
            kind: bytes[16],
            bytes,
        };
        (head.len <= MAX_PAYLOAD).then_some(head)
    }

    /// Returns the kind that the caller gave, and nothing for a marker.
    pub(super) fn kind(&self) -> Option<Kind> {
        Kind::from_bits(self.kind & KIND)
    }

    pub(super) fn is_continued(&self) -> bool {
        self.kind & IS_CONTINUED != 0
    }

    pub(super) fn continues(&self) -> bool {
        self.kind & CONTINUES != 0
    }

    /// Returns how many bytes the record has in the segment.
    pub(super) fn size(&self) -> u64 {
        (RECORD_HEADER + self.len) as u64
    }
}

/// The record by which a sync says what a power cut leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marker {
    /// The content that records below this number refer to is on disk.
    pub(super) covered: u64,
    /// All records below this number, and the content they refer to, were on disk before.
    pub(super) durable: u64,
}

impl Marker {
    pub(super) const KIND: u8 = 0;
    pub(super) const SIZE: u64 = (RECORD_HEADER + 16) as u64;

    pub(super) fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0..8].copy_from_slice(&self.covered.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.durable.to_le_bytes());
        bytes
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; 16] = payload.try_into().ok()?;
        Some(Self {
            covered: u64_at(bytes, 0),
            durable: u64_at(bytes, 8),
        })
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
