//! Room in the ring for the record that is being written.

use crate::layout::FrameHeader;
use crate::position::Position;
use crate::region::Region;

/// What [`Producer::reserve`](crate::Producer::reserve) found.
#[derive(Debug)]
pub enum Reserve<'a> {
    /// Room: write the record, then [`commit`](Reservation::commit) it.
    Slot(Reservation<'a>),
    /// No room until the consumer releases records.
    Full,
    /// The record is longer than [`Producer::max_record`](crate::Producer::max_record) and can never be sent.
    TooLong,
}

/// Room for one record, which is written from its beginning to its end and cannot be read back: the
/// consumer's process may change what lies there. Dropping it without [`commit`](Self::commit) gives the
/// room back.
#[derive(Debug)]
pub struct Reservation<'a> {
    region: &'a Region,
    tail: &'a mut Position,
    header: FrameHeader,
    /// Where the next whole word goes.
    at: Position,
    /// Bytes that are still to be written, those of `partial` among them.
    left: usize,
    /// The bytes of a word that is not whole yet, and how many they are.
    partial: [u8; 8],
    partial_len: usize,
}

impl<'a> Reservation<'a> {
    /// Makes room for a record of `len` bytes out of the free bytes at the tail.
    #[inline]
    pub(crate) fn new(region: &'a Region, tail: &'a mut Position, len: u32) -> Self {
        let header = FrameHeader {
            len,
            kind: FrameHeader::RECORD,
        };
        Self {
            region,
            at: tail.advanced(FrameHeader::SIZE),
            tail,
            header,
            left: len as usize,
            partial: [0; 8],
            partial_len: 0,
        }
    }

    /// Writes the next bytes of the record. What exceeds its length is left out.
    ///
    /// # Examples
    /// ```
    /// use agentfs_ring::{Capacity, OwnerId, Reserve, heap};
    ///
    /// let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// let Reserve::Slot(mut slot) = producer.reserve(12)? else { unreachable!() };
    /// slot.put(b"hello, ");
    /// slot.put(b"world");
    /// slot.commit();
    /// let _ = producer.publish()?;
    ///
    /// let mut claim = consumer.claim(OwnerId::this_process(), |_| true).expect("unclaimed");
    /// assert_eq!(claim.next()?.expect("a record").to_vec(), b"hello, world");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        let room = self.left - self.partial_len;
        let mut bytes = &bytes[..bytes.len().min(room)];
        if self.partial_len > 0 {
            let (first, rest) = bytes.split_at(bytes.len().min(8 - self.partial_len));
            self.keep(first);
            if self.partial_len < 8 {
                return;
            }
            self.set_word(self.partial);
            self.partial_len = 0;
            bytes = rest;
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.set_word(*word);
        }
        self.keep(rest);
    }

    #[inline]
    fn keep(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.partial[self.partial_len] = *byte;
            self.partial_len += 1;
        }
    }

    #[inline]
    fn set_word(&mut self, word: [u8; 8]) {
        self.region.set_word(self.at, u64::from_ne_bytes(word));
        self.at = self.at.advanced(8);
        self.left = self.left.saturating_sub(8);
    }

    /// Makes the record part of the next [`Producer::publish`](crate::Producer::publish). Returns where its
    /// frame starts. Bytes that nobody has put are zero.
    ///
    /// # Examples
    /// ```
    /// use agentfs_ring::{Capacity, Reserve, heap};
    ///
    /// let (mut producer, _consumer) = heap(Capacity::MIN)?;
    /// if let Reserve::Slot(slot) = producer.reserve(5)? {
    ///     drop(slot); // gives the room back
    /// }
    /// assert_eq!(producer.used(), 0);
    /// if let Reserve::Slot(mut slot) = producer.reserve(5)? {
    ///     slot.put(b"hello");
    ///     assert_eq!(slot.commit().get(), 0);
    /// }
    /// assert_eq!(producer.used(), 16);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn commit(mut self) -> Position {
        while self.left > 0 {
            self.partial[self.partial_len..].fill(0);
            self.set_word(self.partial);
            self.partial_len = 0;
        }
        let at = *self.tail;
        self.region.set_frame_header(at, self.header);
        *self.tail = at.advanced(self.header.frame_len());
        at
    }
}
