//! The writing end.
#![expect(
    unsafe_code,
    reason = "hands out the free bytes that the algorithm proves free"
)]

use core::fmt;
use core::ops::{Deref, DerefMut};

use crate::layout::{FrameHeader, frame_len};
use crate::ordering;
use crate::position::{ALIGN, Capacity, Position};
use crate::region::{Region, SlotMut};
use crate::sync::Ordering;

/// How far the producer makes cache lines its own at a time: sixteen of 64 bytes.
const STRIDE: u64 = 1024;

/// The writing end of a ring. There is one.
///
/// Keeps its own exact positions and a possibly old copy of the consumer's head, which it reads
/// again only when the ring seems full. Nothing that the consumer's process writes can make it
/// panic, loop or write outside the ring: the consumer's words are read once per use and checked,
/// and record bytes are never read back.
#[derive(Debug)]
pub struct Producer {
    region: Region,
    /// End of the last committed record.
    tail: Position,
    /// End of the last published record: what the shared word says.
    published: Position,
    /// The consumer's head when it was last looked at.
    head: Position,
    /// The cache lines up to here are this core's, or were when they were last written.
    owned: Position,
}

/// What [`Producer::reserve`] found.
#[derive(Debug)]
pub enum Reserve<'a> {
    /// Room: write the record in place, then [`commit`](Reservation::commit) it.
    Slot(Reservation<'a>),
    /// No room until the consumer releases records.
    Full,
    /// The record is longer than [`Producer::max_record`] and can never be sent.
    TooLong,
}

/// Whether a doorbell must be rung.
#[must_use = "a peer that sleeps is woken only if its doorbell is rung"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bell {
    /// The peer asked to be woken and what it waits for is there: ring its doorbell.
    Ring,
    /// The peer is awake or has been rung already.
    Quiet,
}

/// What [`Producer::request_refill`] found.
#[must_use = "space that is there already rings no bell"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refill {
    /// The consumer will ring back when there is room.
    Requested,
    /// There is room already.
    SpaceNow,
}

/// The consumer's words make no sense: it is broken or hostile. End its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PeerError {
    /// The head is behind where it was, beyond what was published, or not at a frame.
    Head {
        /// What the word said.
        found: Position,
        /// The least it may be.
        least: Position,
        /// The most it may be.
        most: Position,
    },
    /// The consumer wants to be woken at a position that was never published.
    WakePosition {
        /// What the word said.
        found: Position,
        /// The most it may be.
        most: Position,
    },
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head { found, least, most } => write!(
                f,
                "the consumer's head is {found}, but must be a multiple of 8 from {least} to \
                 {most}: close its session"
            ),
            Self::WakePosition { found, most } => write!(
                f,
                "the consumer wants to be woken at {found}, but nothing beyond {most} was \
                 published: close its session"
            ),
        }
    }
}

impl core::error::Error for PeerError {}

impl Producer {
    pub(crate) fn new(region: Region) -> Self {
        Self {
            region,
            tail: Position::START,
            published: Position::START,
            head: Position::START,
            owned: Position::START,
        }
    }

    /// The size of the record area.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> Capacity {
        self.region.capacity()
    }

    /// The longest record in bytes: half the ring less the frame header, so that it fits an empty
    /// ring wherever that happens to start.
    #[must_use]
    #[inline]
    pub fn max_record(&self) -> usize {
        self.capacity().max_record()
    }

    /// Where the next record's frame starts if it needs no padding: the end of what is committed.
    #[must_use]
    pub fn tail(&self) -> Position {
        self.tail
    }

    /// Bytes committed and not known to be released, padding included.
    ///
    /// # Staleness
    /// The consumer may have released more since it was last looked at; see [`Self::observe_head`].
    #[must_use]
    pub fn used(&self) -> usize {
        usize::try_from(self.tail.since(self.head)).unwrap_or(usize::MAX)
    }

    /// Asks for `len` bytes to write one record in.
    ///
    /// # Errors
    /// [`PeerError`] when the ring seemed full and the consumer's head is impossible.
    ///
    /// # Examples
    /// ```
    /// use agentfs_ring::{Bell, Capacity, Reserve, heap};
    ///
    /// let (mut producer, _consumer) = heap(Capacity::MIN)?;
    /// if let Reserve::Slot(mut slot) = producer.reserve(5)? {
    ///     slot.copy_from_slice(b"hello");
    ///     slot.commit();
    /// }
    /// assert_eq!(producer.publish()?, Bell::Quiet); // nobody sleeps
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn reserve(&mut self, len: usize) -> Result<Reserve<'_>, PeerError> {
        if len > self.max_record() {
            return Ok(Reserve::TooLong);
        }
        let frame = frame_len(len as u64);
        let needed = self.needed(frame);
        if self.free() < needed {
            self.observe_head()?;
            if self.free() < needed {
                return Ok(Reserve::Full);
            }
        }
        if needed > frame {
            self.pad(needed - frame);
        }
        if self.owned < self.tail.advanced(frame) {
            self.own_lines(frame);
        }
        let record = self.tail.advanced(FrameHeader::SIZE);
        // SAFETY: `frame` bytes from the tail are free (checked against a head that is at most the
        // consumer's) and do not wrap (padded past the end if they would); `&mut self` is lent to
        // the reservation, so there is no other slot.
        let slot = unsafe { self.region.slot_mut(record, len) };
        #[expect(clippy::cast_possible_truncation, reason = "at most half a gigabyte")]
        let header = FrameHeader {
            len: len as u32,
            kind: FrameHeader::RECORD,
        };
        Ok(Reserve::Slot(Reservation {
            region: &self.region,
            tail: &mut self.tail,
            header,
            slot,
        }))
    }

    /// What a frame takes at the tail: itself, and the padding before it if it would wrap.
    #[inline]
    fn needed(&self, frame: u64) -> u64 {
        let to_end = self.capacity().to_end(self.tail);
        if frame <= to_end {
            frame
        } else {
            to_end + frame
        }
    }

    /// Fills the ring up to its end, so that the next record starts at its beginning.
    #[cold]
    fn pad(&mut self, padding: u64) {
        #[expect(clippy::cast_possible_truncation, reason = "at most a gigabyte")]
        let len = (padding - FrameHeader::SIZE) as u32;
        self.region.set_frame_header(
            self.tail,
            FrameHeader {
                len,
                kind: FrameHeader::PADDING,
            },
        );
        self.tail = self.tail.advanced(padding);
    }

    /// Writes to each free cache line from the next frame on, which the consumer's core has read.
    ///
    /// FENCE[publish] waits until every line that was written to has come back from there: asked for
    /// one at a time, as records are published, that is most of what a record costs; sixteen at
    /// once come in the time of two. (A prefetch would not do: it leaves alone a line that is still
    /// here for reading.)
    #[cold]
    fn own_lines(&mut self, frame: u64) {
        const LINE: u64 = 64;
        let free = Position::new(self.head.get() + self.capacity().get());
        let end = free.min(self.tail.advanced(frame + STRIDE));
        let start = self.owned.max(self.tail).get().next_multiple_of(LINE);
        let mut line = Position::new(start);
        while line < end {
            self.region.set_frame_header(line, FrameHeader::NONE);
            line = line.advanced(LINE);
        }
        self.owned = end;
    }

    #[inline]
    fn free(&self) -> u64 {
        self.capacity().get() - self.tail.since(self.head)
    }

    /// Shows the consumer everything committed, and says whether it sleeps.
    ///
    /// # Errors
    /// [`PeerError`] when the consumer's wake-up position is impossible. The records are published
    /// all the same.
    #[inline]
    pub fn publish(&mut self) -> Result<Bell, PeerError> {
        let (old, new) = (self.published, self.tail);
        if old == new {
            return Ok(Bell::Quiet);
        }
        self.region.tail().store(new.get(), ordering::publish());
        self.published = new;
        ordering::publish_fence();
        // Relaxed: FENCE[publish] orders it after the store of the tail, and nothing is read
        // through the value.
        let wake_at = Position::new(self.region.wake_at().load(Ordering::Relaxed));
        if wake_at.is_passed_by(old, new) {
            return Ok(Bell::Ring);
        }
        if wake_at > new && wake_at != Position::NEVER {
            return Err(PeerError::WakePosition {
                found: wake_at,
                most: new,
            });
        }
        Ok(Bell::Quiet)
    }

    /// Whether the record whose frame starts at `at` (as [`Reservation::commit`] returned it) is
    /// still unread, so that a change made before this call needs no record of its own.
    ///
    /// If it says yes, the consumer releases that record after the change: whatever looks at the
    /// changed thing because of that record sees the change.
    ///
    /// # Errors
    /// [`PeerError`] when the consumer's head is impossible.
    #[inline]
    pub fn is_unread(&mut self, at: Position) -> Result<bool, PeerError> {
        if at < self.head {
            return Ok(false);
        }
        ordering::unread_fence();
        self.observe_head()?;
        Ok(self.head <= at)
    }

    /// Asks the consumer to ring back when there is room for a record of `len` bytes and half of the
    /// ring is free, whichever comes later: a producer that is rung for every record freed would
    /// be rung all the time. Publish first: the consumer cannot free what it does not see.
    ///
    /// # Errors
    /// [`PeerError`] when the consumer's head is impossible.
    pub fn request_refill(&mut self, len: usize) -> Result<Refill, PeerError> {
        debug_assert_eq!(self.tail, self.published, "publish before asking for room");
        let capacity = self.capacity();
        let frame = frame_len(len.min(self.max_record()) as u64);
        let needed = self.needed(frame);
        let wanted = needed.max(capacity.get() / 2);
        // The ring is full, so the tail is beyond; a head beyond this position leaves `wanted` free.
        let beyond = (self.tail.get() + wanted).saturating_sub(capacity.get() + ALIGN);
        self.region.refill_at().store(beyond, Ordering::Relaxed);
        ordering::refill_fence();
        self.observe_head()?;
        Ok(if self.free() >= needed {
            Refill::SpaceNow
        } else {
            Refill::Requested
        })
    }

    /// Looks at the consumer's head: everything before it is released.
    ///
    /// # Errors
    /// [`PeerError`] when it is impossible.
    pub fn observe_head(&mut self) -> Result<Position, PeerError> {
        let head = Position::new(self.region.head().load(ordering::reuse()));
        if head.is_aligned() && self.head <= head && head <= self.published {
            self.head = head;
            Ok(head)
        } else {
            Err(PeerError::Head {
                found: head,
                least: self.head,
                most: self.published,
            })
        }
    }
}

/// Room for one record: a byte slice at a multiple of eight, whose contents are unspecified.
/// Dropping it without [`commit`](Self::commit) gives the room back.
#[derive(Debug)]
pub struct Reservation<'a> {
    region: &'a Region,
    tail: &'a mut Position,
    header: FrameHeader,
    slot: SlotMut<'a>,
}

impl Reservation<'_> {
    /// Makes the record part of the next [`Producer::publish`]. Returns where its frame starts.
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
