//! Reading without a claim, for readers that may be killed, stopped or left by a jump at any moment.
//!
//! A reader copies the first record, and takes it by moving the head from where it stood. Of several
//! readers with the same record one moves the head, and the others throw their copies away. So nothing
//! is held between two calls: what a reader leaves unfinished, the next one finds as it was.
//!
//! The head and the wake-up position only grow here, so a reader that goes on after a long stop undoes
//! nothing that others did meanwhile.

use crate::consumer::{Consumer, Corrupt};
use crate::layout::FrameHeader;
use crate::ordering;
use crate::position::Position;
use crate::producer::Bell;
use crate::region::Region;
use crate::sync::Ordering;

/// What a ring looks like to a reader that is about to sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Nothing is there, and the producer rings for whatever comes: sleep.
    Quiet,
    /// Nothing is there, and the producer was not asked to ring: [`Consumer::arm`].
    Unarmed,
    /// A record is there, and its bell is about to be rung: sleep, it will not be for long.
    Ringing,
    /// A record is there, and no bell is on its way: take it, although no bell was heard.
    Waiting,
}

/// What [`Consumer::arm`] found.
#[must_use = "a reader that sleeps over a record may sleep for ever"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Armed {
    /// Nothing is pending, and the producer rings for whatever comes: sleep.
    MaySleep,
    /// A record is there, and the producer was not asked to ring.
    Pending,
    /// A record came at the same moment. The producer may ring for it or not: ring in its place.
    Crossed,
}

/// The most bytes of a record that a [`RecordBuffer`] takes.
const COPIED: usize = 512;

/// The place for the copy of one record.
#[derive(Debug)]
#[repr(align(8))]
pub struct RecordBuffer([u8; COPIED]);

impl RecordBuffer {
    /// Makes an empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self([0; COPIED])
    }
}

impl Default for RecordBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// The copy of the first record of a ring, which is not taken yet.
#[derive(Debug)]
pub struct Copied<'a> {
    /// Where the head stood.
    from: Position,
    /// The end of the record.
    next: Position,
    /// `None` when the record is longer than the buffer.
    bytes: Option<&'a [u8]>,
}

impl Copied<'_> {
    /// Returns the record, or `None` when it is longer than a [`RecordBuffer`].
    ///
    /// The bytes mean something only once [`Consumer::take`] has succeeded: another reader may have
    /// taken the record, and the producer may have written over it while it was copied.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        self.bytes
    }

    /// Returns the right to take the record, without its copy.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            from: self.from,
            next: self.next,
        }
    }
}

/// The place of a record that was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    from: Position,
    next: Position,
}

/// The frame that [`first_frame`] found.
#[derive(Clone, Copy, Debug)]
enum Found {
    /// A record of so many bytes.
    Record {
        from: Position,
        start: Position,
        len: u32,
        next: Position,
    },
    /// Nothing is published.
    Nothing,
}

impl Consumer {
    /// Looks at the ring, in a few loads. A reader that sleeps after [`Look::Quiet`] or
    /// [`Look::Ringing`] is woken for every record that nobody else takes.
    ///
    /// # Staleness
    /// Whatever it says may be wrong by the time it is returned. A record that came meanwhile has a
    /// bell of its own.
    ///
    /// # Examples
    /// ```
    /// use agentfs_ring::{Armed, Capacity, Look, Reserve, heap};
    ///
    /// let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// assert_eq!(consumer.look(), Look::Unarmed);
    /// assert_eq!(consumer.arm()?, Armed::MaySleep);
    /// assert_eq!(consumer.look(), Look::Quiet);
    ///
    /// let Reserve::Slot(slot) = producer.reserve(8)? else { unreachable!() };
    /// slot.commit();
    /// let _ = producer.publish()?;
    /// assert_eq!(consumer.look(), Look::Ringing);
    /// producer.note_ring();
    /// assert_eq!(consumer.look(), Look::Waiting);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn look(&self) -> Look {
        let region = self.region();
        // Relaxed: nothing is read through these values, and an old one leads to a sleep from which the
        // bell of the newer one wakes.
        let head = Position::new(region.head().load(Ordering::Relaxed));
        let tail = Position::new(region.tail().load(Ordering::Relaxed));
        let wake_at = Position::new(region.wake_at().load(Ordering::Relaxed));
        let is_armed = wake_at != Position::NEVER && wake_at >= head;
        if head >= tail {
            return if is_armed { Look::Quiet } else { Look::Unarmed };
        }
        let rung = Position::new(region.rung().load(Ordering::Relaxed));
        if is_armed && rung <= wake_at {
            Look::Ringing
        } else {
            Look::Waiting
        }
    }

    /// Copies the first record, or returns `None` when nothing is published. It stays in the ring
    /// until somebody [takes](Self::take) it.
    ///
    /// # Errors
    /// [`Corrupt`] when the producer's tail or the frame there is impossible.
    ///
    /// # Examples
    /// ```
    /// use agentfs_ring::{Bell, Capacity, RecordBuffer, Reserve, heap};
    ///
    /// let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// let Reserve::Slot(mut slot) = producer.reserve(5)? else { unreachable!() };
    /// slot.put(b"hello");
    /// slot.commit();
    /// let _ = producer.publish()?;
    ///
    /// let (mut one, mut other) = (RecordBuffer::new(), RecordBuffer::new());
    /// let mine = consumer.peek(&mut one)?.expect("a record");
    /// let theirs = consumer.peek(&mut other)?.expect("the same one");
    /// assert_eq!(theirs.bytes(), Some(&b"hello"[..]));
    /// assert_eq!(consumer.take(theirs.place()), Some(Bell::Quiet));
    /// assert_eq!(consumer.take(mine.place()), None); // somebody else has it
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peek<'a>(&self, buffer: &'a mut RecordBuffer) -> Result<Option<Copied<'a>>, Corrupt> {
        let found = first_frame(self.region())?;
        Ok(self.copy(&found, buffer))
    }

    /// Copies the record behind another one, or the first, without a right to take it: to look at all that
    /// is there.
    ///
    /// # Errors
    /// [`Corrupt`] when the producer's tail or the frame there is impossible, or when the record before was
    /// taken meanwhile and written over.
    pub fn peek_after<'a>(
        &self,
        before: Option<Place>,
        buffer: &'a mut RecordBuffer,
    ) -> Result<Option<Copied<'a>>, Corrupt> {
        let found = match before {
            None => first_frame(self.region())?,
            Some(place) => frame_at(self.region(), place.next)?,
        };
        Ok(self.copy(&found, buffer))
    }

    fn copy<'a>(&self, found: &Found, buffer: &'a mut RecordBuffer) -> Option<Copied<'a>> {
        let Found::Record {
            from,
            start,
            len,
            next,
        } = *found
        else {
            return None;
        };
        let len = len as usize;
        let bytes = (len <= COPIED).then(|| {
            let bytes = buffer.0.get_mut(..len).unwrap_or_default();
            self.region().copy(start, bytes);
            &*bytes
        });
        Some(Copied { from, next, bytes })
    }

    /// Returns whether a record that was copied is still the first one, so that the copy says what the
    /// record says.
    #[must_use]
    pub fn is_first(&self, place: Place) -> bool {
        ordering::recheck_fence();
        // Relaxed: FENCE[recheck] orders it after the loads of the copy.
        self.region().head().load(Ordering::Relaxed) == place.from.get()
    }

    /// Takes the record that was copied, and returns whether the producer waits for the space: then ring
    /// the refill doorbell. Returns `None` when somebody else has taken it, whose copy is the good one.
    #[must_use = "a record that somebody else has taken is theirs"]
    pub fn take(&self, place: Place) -> Option<Bell> {
        move_head(self.region(), place)?;
        // Relaxed: FENCE[release] orders it after the store of the head.
        let refill_at = Position::new(self.region().refill_at().load(Ordering::Relaxed));
        Some(if refill_at.is_passed_by(place.from, place.next) {
            Bell::Ring
        } else {
            Bell::Quiet
        })
    }

    /// Asks for the doorbell to be rung for whatever is published from now on, and looks once more.
    ///
    /// # Errors
    /// [`Corrupt`] when the producer's tail is impossible.
    ///
    /// # Examples
    /// ```
    /// use agentfs_ring::{Armed, Bell, Capacity, Reserve, heap};
    ///
    /// let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// assert_eq!(consumer.arm()?, Armed::MaySleep);
    /// let Reserve::Slot(slot) = producer.reserve(8)? else { unreachable!() };
    /// slot.commit();
    /// assert_eq!(producer.publish()?, Bell::Ring);
    /// assert_eq!(consumer.arm()?, Armed::Pending);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn arm(&self) -> Result<Armed, Corrupt> {
        let region = self.region();
        let Found::Nothing = first_frame(region)? else {
            return Ok(Armed::Pending);
        };
        // Relaxed: `first_frame` has found the head there, and it only grows.
        let at = Position::new(region.head().load(Ordering::Relaxed));
        raise_wake_at(region, at);
        ordering::arm_fence();
        // Relaxed: FENCE[arm] orders it after the store of the wake-up position, and records are read
        // only after another look by `peek`.
        let tail = Position::new(region.tail().load(Ordering::Relaxed));
        Ok(if tail == at {
            Armed::MaySleep
        } else {
            Armed::Crossed
        })
    }
}

/// Moves the head behind a record, if it still stands before it.
fn move_head(region: &Region, place: Place) -> Option<()> {
    if ordering::is_mutant("take_blindly") {
        region.head().store(place.next.get(), ordering::free());
    } else {
        // Relaxed on failure: nothing is done then.
        region
            .head()
            .compare_exchange(
                place.from.get(),
                place.next.get(),
                ordering::take(),
                Ordering::Relaxed,
            )
            .ok()?;
    }
    ordering::release_fence();
    Some(())
}

/// Moves the wake-up position forward to `at`, and never back: a reader that was stopped here must not
/// undo what others asked for meanwhile.
fn raise_wake_at(region: &Region, at: Position) {
    let wake_at = region.wake_at();
    if ordering::is_mutant("arm_backwards") {
        wake_at.store(at.get(), Ordering::Relaxed);
        return;
    }
    // Relaxed: FENCE[arm] comes after, whoever stored the position.
    let mut found = wake_at.load(Ordering::Relaxed);
    while found == Position::NEVER.get() || found < at.get() {
        match wake_at.compare_exchange(found, at.get(), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(other) => found = other,
        }
    }
}

/// Returns the first record, and passes over padding before it.
///
/// While this looks, another reader may take the record, and the producer write over it. So what makes no
/// sense is looked at again if the head has moved.
fn first_frame(region: &Region) -> Result<Found, Corrupt> {
    loop {
        let head = Position::new(region.head().load(ordering::follow()));
        match frame_at(region, head) {
            Ok(found) => return Ok(found),
            Err(corrupt) => {
                ordering::recheck_fence();
                // Relaxed: FENCE[recheck] orders it after the loads that made no sense.
                if region.head().load(Ordering::Relaxed) == head.get() {
                    return Err(corrupt);
                }
            }
        }
    }
}

fn frame_at(region: &Region, head: Position) -> Result<Found, Corrupt> {
    // Relaxed: FENCE[observe] orders what is read through it.
    let tail = Position::new(region.tail().load(Ordering::Relaxed));
    ordering::observe_fence();
    let is_possible =
        tail.is_aligned() && head.is_aligned() && tail.since(head) <= region.capacity().get();
    if !is_possible {
        return Err(Corrupt::Tail { found: tail, head });
    }
    let mut at = head;
    while at != tail {
        let header = region.frame_header(at);
        let frame = header.frame_len();
        let fits = frame <= tail.since(at) && frame <= region.capacity().to_end(at);
        let next = at.advanced(frame);
        match header.kind {
            FrameHeader::RECORD if fits => {
                return Ok(Found::Record {
                    from: head,
                    start: at.advanced(FrameHeader::SIZE),
                    len: header.len,
                    next,
                });
            }
            FrameHeader::PADDING if fits => at = next,
            kind => {
                return Err(Corrupt::Frame {
                    at,
                    len: header.len,
                    kind,
                });
            }
        }
    }
    if at != head {
        // Only padding: it is passed over for good, so that an empty ring looks empty.
        let place = Place {
            from: head,
            next: at,
        };
        let _ = move_head(region, place);
    }
    Ok(Found::Nothing)
}
