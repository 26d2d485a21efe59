//! The writing end.

use crate::layout::{FrameHeader, frame_len};
use crate::ordering;
use crate::peer_error::PeerError;
use crate::position::{ALIGN, Capacity, Position};
use crate::region::Region;
use crate::reservation::{Reservation, Reserve};
use crate::sync::Ordering;

/// How far the producer makes cache lines its own at a time: sixteen of 64 bytes.
const STRIDE: u64 = 1024;

/// The writing end of a ring. There is one.
///
/// It keeps its own exact positions and a possibly old copy of the consumer's head, which it reads
/// again only when the ring seems full. Nothing that the consumer's process writes can make it
/// panic, loop or write outside the ring: the consumer's words are read once per use and checked,
/// and record bytes are never read back.
///
/// # Examples
/// ```
/// use agentfs_ring::{Capacity, heap};
///
/// let (producer, _consumer) = heap(Capacity::MIN)?;
/// assert_eq!(producer.capacity(), Capacity::MIN);
/// assert_eq!(producer.max_record(), Capacity::MIN.bytes() / 2 - 8);
/// assert_eq!(producer.tail().get(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

    /// Returns the size of the record area.
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::{Capacity, heap};
    /// let (producer, _consumer) = heap(Capacity::MIN)?;
    /// assert_eq!(producer.capacity(), Capacity::MIN);
    /// assert_eq!(producer.capacity().bytes(), 4096);
    /// # Ok::<(), agentfs_ring::MapError>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> Capacity {
        self.region.capacity()
    }

    /// Returns the length of the longest record in bytes: half the ring less the frame header, so
    /// that it fits an empty ring wherever that happens to start.
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::{Capacity, Reserve, heap};
    /// # let (mut producer, _consumer) = heap(Capacity::MIN)?;
    /// let most = producer.max_record();
    /// assert!(matches!(producer.reserve(most)?, Reserve::Slot(_)));
    /// assert!(matches!(producer.reserve(most + 1)?, Reserve::TooLong));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn max_record(&self) -> usize {
        self.capacity().max_record()
    }

    /// Returns where the next record's frame starts if it needs no padding: the end of what is
    /// committed.
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::{Capacity, Reserve, heap};
    /// # let (mut producer, _consumer) = heap(Capacity::MIN)?;
    /// let Reserve::Slot(slot) = producer.reserve(8)? else { unreachable!() };
    /// let at = slot.commit();
    /// assert!(at < producer.tail());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn tail(&self) -> Position {
        self.tail
    }

    /// Returns how many bytes are committed and not known to be released, padding included.
    ///
    /// # Staleness
    /// The consumer may have released more since it was last looked at; see [`Self::observe_head`].
    ///
    /// # Examples
    /// It is never too low, so what is left is really free:
    /// ```
    /// # use agentfs_ring::{Bell, Capacity, OwnerId, PeerError, Producer, Reserve, heap};
    /// # fn push(producer: &mut Producer, bytes: &[u8]) -> Result<Bell, PeerError> {
    /// #     if let Reserve::Slot(mut slot) = producer.reserve(bytes.len())? {
    /// #         slot.put(bytes);
    /// #         slot.commit();
    /// #     }
    /// #     producer.publish()
    /// # }
    /// # let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// let _ = push(&mut producer, b"record")?;
    /// assert_eq!(producer.used(), 16); // 8 bytes before it, and 2 that fill it up
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    /// It may be too high for as long as nobody looks. It does not say that a record is unread:
    /// ```
    /// # use agentfs_ring::{Bell, Capacity, OwnerId, PeerError, Producer, Reserve, heap};
    /// # fn push(producer: &mut Producer, bytes: &[u8]) -> Result<Bell, PeerError> {
    /// #     if let Reserve::Slot(mut slot) = producer.reserve(bytes.len())? {
    /// #         slot.put(bytes);
    /// #         slot.commit();
    /// #     }
    /// #     producer.publish()
    /// # }
    /// # let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// # let mut claim = consumer.claim(OwnerId::this_process(), |_| true).expect("unclaimed");
    /// let _ = push(&mut producer, b"record")?;
    /// let _record = claim.next()?;
    /// let _ = claim.release();
    /// assert_eq!(producer.used(), 16); // and yet it was read
    /// producer.observe_head()?;
    /// assert_eq!(producer.used(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn used(&self) -> usize {
        usize::try_from(self.tail.since(self.head)).unwrap_or(usize::MAX)
    }

    /// Returns `len` bytes to write one record in, if there is room.
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
    ///     slot.put(b"hello");
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
        #[expect(clippy::cast_possible_truncation, reason = "at most half a gigabyte")]
        let len = len as u32;
        Ok(Reserve::Slot(Reservation::new(
            &self.region,
            &mut self.tail,
            len,
        )))
    }

    /// Returns what a frame takes at the tail: itself, and the padding before it if it would wrap.
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

    /// Shows the consumer everything committed, and returns whether it sleeps.
    ///
    /// # Errors
    /// [`PeerError`] when the consumer's wake-up position is impossible. The records are published
    /// all the same.
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::{Bell, Capacity, OwnerId, PeerError, Producer, Reserve, heap};
    /// # use agentfs_ring::ArmOutcome;
    /// # fn push(producer: &mut Producer, bytes: &[u8]) -> Result<Bell, PeerError> {
    /// #     if let Reserve::Slot(mut slot) = producer.reserve(bytes.len())? {
    /// #         slot.put(bytes);
    /// #         slot.commit();
    /// #     }
    /// #     producer.publish()
    /// # }
    /// # let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// # let mut claim = consumer.claim(OwnerId::this_process(), |_| true).expect("unclaimed");
    /// assert_eq!(claim.arm()?, ArmOutcome::MaySleep);
    /// for bytes in [b"one", b"two"] {
    ///     let Reserve::Slot(mut slot) = producer.reserve(3)? else { unreachable!() };
    ///     slot.put(bytes);
    ///     slot.commit();
    /// }
    /// assert_eq!(producer.publish()?, Bell::Ring); // one wake-up for both
    /// assert_eq!(producer.publish()?, Bell::Quiet); // there was nothing more
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

    /// Notes that the doorbell was rung for everything published: call it after ringing. A reader that finds
    /// a record then and no bell knows that the bell was lost, and does not wait for it.
    #[inline]
    pub fn note_ring(&mut self) {
        // Relaxed: nothing is read through it. A reader that sees it before the bell rings once too often.
        let rung = self.region.rung();
        rung.store(self.published.get(), Ordering::Relaxed);
    }

    /// Returns whether the record whose frame starts at `at` (as [`Reservation::commit`] returned
    /// it) is still unread, so that a change made before this call needs no record of its own.
    ///
    /// After a "yes" the consumer releases that record after the change: whatever looks at the
    /// changed thing because of that record sees the change.
    ///
    /// # Errors
    /// [`PeerError`] when the consumer's head is impossible.
    ///
    /// # Staleness
    /// "No" stays true; "yes" may be wrong by the time it is returned, and covers the changes that
    /// were made before the call.
    ///
    /// # Examples
    /// First the change, then the question:
    /// ```
    /// # use agentfs_ring::{Bell, Capacity, OwnerId, PeerError, Producer, Reserve, heap};
    /// # fn push(producer: &mut Producer, bytes: &[u8]) -> Result<Bell, PeerError> {
    /// #     if let Reserve::Slot(mut slot) = producer.reserve(bytes.len())? {
    /// #         slot.put(bytes);
    /// #         slot.commit();
    /// #     }
    /// #     producer.publish()
    /// # }
    /// # let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// # let mut size = 0;
    /// let at = producer.tail();
    /// let _ = push(&mut producer, b"the size changed")?;
    ///
    /// size += 1;
    /// if !producer.is_unread(at)? {
    ///     let _ = push(&mut producer, b"the size changed")?;
    /// }
    /// # assert_eq!(size, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    /// Not the other way round. Between the answer and the change the record may be read, and nobody
    /// hears of the change:
    /// ```no_run
    /// # use agentfs_ring::{Bell, Capacity, OwnerId, PeerError, Producer, Reserve, heap};
    /// # fn push(producer: &mut Producer, bytes: &[u8]) -> Result<Bell, PeerError> {
    /// #     if let Reserve::Slot(mut slot) = producer.reserve(bytes.len())? {
    /// #         slot.put(bytes);
    /// #         slot.commit();
    /// #     }
    /// #     producer.publish()
    /// # }
    /// # let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// # let mut size = 0;
    /// # let at = producer.tail();
    /// let unread = producer.is_unread(at)?; // wrong: the question comes first
    /// size += 1;
    /// if !unread {
    ///     let _ = push(&mut producer, b"the size changed")?;
    /// }
    /// # assert_eq!(size, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::Refill;
    /// # use agentfs_ring::{Bell, Capacity, OwnerId, PeerError, Producer, Reserve, heap};
    /// # fn push(producer: &mut Producer, bytes: &[u8]) -> Result<Bell, PeerError> {
    /// #     if let Reserve::Slot(mut slot) = producer.reserve(bytes.len())? {
    /// #         slot.put(bytes);
    /// #         slot.commit();
    /// #     }
    /// #     producer.publish()
    /// # }
    /// # let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// # let mut claim = consumer.claim(OwnerId::this_process(), |_| true).expect("unclaimed");
    /// # let bytes = vec![0; producer.max_record()];
    /// # let _ = push(&mut producer, &bytes)?;
    /// # let _ = push(&mut producer, &bytes)?;
    /// assert!(matches!(producer.reserve(100)?, Reserve::Full));
    /// match producer.request_refill(100)? {
    ///     Refill::SpaceNow => { /* write the record now: no bell will be rung */ }
    ///     Refill::Requested => { /* keep the record until the refill doorbell is rung */ }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

    /// Looks at the consumer's head and returns it: everything before it is released.
    ///
    /// # Errors
    /// [`PeerError`] when the head is impossible.
    ///
    /// # Staleness
    /// What is released stays so; more may be by the time the head is returned.
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::{Bell, Capacity, OwnerId, PeerError, Producer, Reserve, heap};
    /// # fn push(producer: &mut Producer, bytes: &[u8]) -> Result<Bell, PeerError> {
    /// #     if let Reserve::Slot(mut slot) = producer.reserve(bytes.len())? {
    /// #         slot.put(bytes);
    /// #         slot.commit();
    /// #     }
    /// #     producer.publish()
    /// # }
    /// # let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// # let mut claim = consumer.claim(OwnerId::this_process(), |_| true).expect("unclaimed");
    /// let _ = push(&mut producer, b"record")?;
    /// assert_eq!(producer.observe_head()?.get(), 0);
    /// let _record = claim.next()?;
    /// let _ = claim.release();
    /// assert_eq!(producer.observe_head()?, producer.tail());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
