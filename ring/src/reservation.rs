//! Room in the ring for the record that is being written.

use core::ops::{Deref, DerefMut};

use crate::layout::FrameHeader;
use crate::position::Position;
use crate::region::{Region, SlotMut};

/// What [`Producer::reserve`](crate::Producer::reserve) found.
#[derive(Debug)]
pub enum Reserve<'a> {
    /// Room: write the record in place, then [`commit`](Reservation::commit) it.
    Slot(Reservation<'a>),
    /// No room until the consumer releases records.
    Full,
    /// The record is longer than [`Producer::max_record`](crate::Producer::max_record) and can never be sent.
    TooLong,
}

/// Room for one record: a byte slice at a multiple of eight, whose contents are unspecified.
/// Dropping it without [`commit`](Self::commit) gives the room back.
#[derive(Debug)]
pub struct Reservation<'a> {
    pub(crate) region: &'a Region,
    pub(crate) tail: &'a mut Position,
    pub(crate) header: FrameHeader,
    pub(crate) slot: SlotMut<'a>,
}

impl Reservation<'_> {
    /// Makes the record part of the next [`Producer::publish`](crate::Producer::publish). Returns where its frame starts.
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
    ///     slot.copy_from_slice(b"hello");
    ///     assert_eq!(slot.commit().get(), 0);
    /// }
    /// assert_eq!(producer.used(), 16);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn commit(self) -> Position {
        self.slot.finish();
        let at = *self.tail;
        self.region.set_frame_header(at, self.header);
        *self.tail = at.advanced(self.header.frame_len());
        at
    }
}

impl Deref for Reservation<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.slot.bytes()
    }
}

impl DerefMut for Reservation<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.slot.bytes_mut()
    }
}
