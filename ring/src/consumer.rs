//! The reading end.

use core::fmt;
use core::num::NonZeroU64;

use crate::layout::FrameHeader;
use crate::ordering;
use crate::owner::OwnerId;
use crate::position::Position;
use crate::producer::Bell;
use crate::region::Region;
use crate::sync::Ordering;

/// The reading end of a ring, which several threads and forked children may hold.
///
/// Its place is in the shared region and nowhere else, and only the holder of the [`Claim`] may move
/// it, so no record is seen twice.
#[derive(Debug)]
pub struct Consumer {
    region: Region,
}

/// The producer's words or a frame make no sense: it is broken. Nothing was consumed; nothing more
/// can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Corrupt {
    /// The tail is behind the head, further ahead than the ring is long, or not at a frame.
    Tail {
        /// What the word said.
        found: Position,
        /// Where the consumer stands.
        head: Position,
    },
    /// A frame is of no known kind, or longer than what is published or than what is left of the
    /// ring.
    Frame {
        /// Where it starts.
        at: Position,
        /// The length that it claims.
        len: u32,
        /// The kind that it claims.
        kind: u32,
    },
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tail { found, head } => write!(
                f,
                "the producer's tail is {found}, which is no place it can be with the head at \
                 {head}: open the queue anew"
            ),
            Self::Frame { at, len, kind } => write!(
                f,
                "the frame at {at} claims kind {kind} and {len} bytes, which is not possible \
                 there: open the queue anew"
            ),
        }
    }
}

impl core::error::Error for Corrupt {}

/// What [`Claim::arm`] found.
#[must_use = "a consumer that sleeps over pending work may sleep forever"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArmOutcome {
    /// Nothing is pending and the producer rings for whatever comes: sleep.
    MaySleep,
    /// Something is there: do not sleep.
    WorkPending,
}

impl Consumer {
    pub(crate) fn new(region: Region) -> Self {
        Self { region }
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Makes the caller the consumer until the claim is dropped. Never waits: `None` means that
    /// another thread or process is popping right now, which leaves no record behind without arming
    /// or being rung.
    ///
    /// `is_alive` is asked only when the ring is claimed already: an owner that died while popping is
    /// replaced. The records that it had popped and not released are popped again.
    ///
    /// Whoever drops a claim must have seen [`ArmOutcome::MaySleep`], or else must make sure that
    /// the queue still looks readable to the threads that found it claimed.
    ///
    /// # Examples
    /// ```
    /// use agentfs_ring::{Capacity, OwnerId, heap};
    ///
    /// let (_producer, consumer) = heap(Capacity::MIN)?;
    /// let me = OwnerId::this_process();
    /// let claim = consumer.claim(me, |_| true).expect("nobody else pops");
    /// assert!(consumer.claim(me, |_| true).is_none()); // for instance in a signal handler
    /// drop(claim);
    /// assert!(consumer.claim(me, |_| true).is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn claim(&self, me: OwnerId, is_alive: impl FnOnce(OwnerId) -> bool) -> Option<Claim<'_>> {
        let owner = self.region.owner();
        let take = |from: u64| {
            // Relaxed on failure: only the number is looked at.
            owner.compare_exchange(from, me.get(), ordering::claim(), Ordering::Relaxed)
        };
        match take(UNOWNED) {
            Ok(_) => {}
            Err(held) => {
                let holder = OwnerId::new(NonZeroU64::new(held)?);
                if holder == me || is_alive(holder) {
                    return None;
                }
                take(held).ok()?;
            }
        }
        Some(Claim::new(&self.region, me))
    }
}

const UNOWNED: u64 = 0;

/// The right to pop. Not for sharing: one thread holds it.
#[derive(Debug)]
pub struct Claim<'a> {
    region: &'a Region,
    me: OwnerId,
    /// End of the last record handed out.
    next: Position,
    /// Everything before is released: what the shared word says.
    head: Position,
    /// The producer's tail when it was last looked at.
    tail: Position,
}

impl<'a> Claim<'a> {
    fn new(region: &'a Region, me: OwnerId) -> Self {
        // Relaxed: only claimants write the head, and ORDERING[claim] follows the last one.
        let head = Position::new(region.head().load(Ordering::Relaxed));
        Self {
            region,
            me,
            next: head,
            head,
            tail: head,
        }
    }

    /// Returns the next record, to be copied out, or `None` when all that is published was handed out.
    ///
    /// # Errors
    /// [`Corrupt`] when the producer's tail or the frame there is impossible.
    ///
    /// # Examples
    /// ```
    /// use agentfs_ring::{Bell, Capacity, OwnerId, Reserve, heap};
    ///
    /// let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// for text in ["one", "two"] {
    ///     let Reserve::Slot(mut slot) = producer.reserve(3)? else { unreachable!() };
    ///     slot.put(text.as_bytes());
    ///     slot.commit();
    /// }
    /// let _ = producer.publish()?;
    ///
    /// let mut claim = consumer.claim(OwnerId::this_process(), |_| true).expect("nobody else pops");
    /// assert_eq!(claim.next()?.expect("a record").to_vec(), b"one");
    /// assert_eq!(claim.next()?.expect("a record").to_vec(), b"two");
    /// assert!(claim.next()?.is_none());
    /// assert_eq!(claim.release(), Bell::Quiet); // nobody waits for the space
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A record cannot outlive its release, because the producer may write over it then:
    /// ```compile_fail,E0499
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
    /// # push(&mut producer, b"one")?;
    /// let record = claim.next()?.expect("a record");
    /// let _ = claim.release();
    /// assert_eq!(record.to_vec(), b"one"); // does not compile
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[expect(
        clippy::should_implement_trait,
        reason = "it lends, which Iterator cannot"
    )]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, Corrupt> {
        loop {
            if self.next == self.tail {
                self.observe_tail()?;
                if self.next == self.tail {
                    return Ok(None);
                }
            }
            let at = self.next;
            let header = self.region.frame_header(at);
            let frame = header.frame_len();
            let fits = frame <= self.tail.since(at) && frame <= self.region.capacity().to_end(at);
            match header.kind {
                FrameHeader::RECORD if fits => {
                    self.next = at.advanced(frame);
                    let region = self.region;
                    let len = header.len;
                    return Ok(Some(Record { region, at, len }));
                }
                FrameHeader::PADDING if fits => self.next = at.advanced(frame),
                kind => {
                    return Err(Corrupt::Frame {
                        at,
                        len: header.len,
                        kind,
                    });
                }
            }
        }
    }

    /// Returns whether a record is waiting that was not handed out yet.
    ///
    /// # Errors
    /// [`Corrupt`] when the producer's tail is impossible.
    ///
    /// # Staleness
    /// "Yes" stays true until the record is taken; "no" may be wrong by the time it is returned.
    ///
    /// # Examples
    /// A record that was seen is there:
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
    /// # let _ = push(&mut producer, b"one")?;
    /// if claim.has_pending()? {
    ///     assert!(claim.next()?.is_some());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    /// A "no" is no reason to sleep. The record that comes next rings no doorbell, because the
    /// producer takes this consumer for awake; [`arm`](Self::arm) before sleeping:
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
    /// assert!(!claim.has_pending()?);
    /// assert_eq!(push(&mut producer, b"one")?, Bell::Quiet); // a sleeper would not hear of it
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn has_pending(&mut self) -> Result<bool, Corrupt> {
        if self.next == self.tail {
            self.observe_tail()?;
        }
        Ok(self.next != self.tail)
    }

    /// Looks at the tail. Records up to there may be read afterwards.
    fn observe_tail(&mut self) -> Result<(), Corrupt> {
        self.look_at_tail()?;
        ordering::observe_fence();
        Ok(())
    }

    fn look_at_tail(&mut self) -> Result<(), Corrupt> {
        // Relaxed: FENCE[observe] orders what is read through it.
        let tail = Position::new(self.region.tail().load(Ordering::Relaxed));
        // A head that is not at a frame can only come from a process that shares this end.
        let possible = tail.is_aligned()
            && self.head.is_aligned()
            && tail.since(self.head) <= self.region.capacity().get()
            && self.next.since(self.head) <= tail.since(self.head);
        if possible {
            self.tail = tail;
            Ok(())
        } else {
            Err(Corrupt::Tail {
                found: tail,
                head: self.head,
            })
        }
    }

    /// Frees everything that [`next`](Self::next) handed out, and returns whether the producer waits
    /// for the space: then ring the refill doorbell.
    ///
    /// Call it after the records are copied to where they go and before the program acts on them.
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::{Bell, Capacity, OwnerId, PeerError, Producer, Refill, Reserve, heap};
    /// # fn push(producer: &mut Producer, bytes: &[u8]) -> Result<Bell, PeerError> {
    /// #     if let Reserve::Slot(mut slot) = producer.reserve(bytes.len())? {
    /// #         slot.put(bytes);
    /// #         slot.commit();
    /// #     }
    /// #     producer.publish()
    /// # }
    /// # let (mut producer, consumer) = heap(Capacity::MIN)?;
    /// # let mut claim = consumer.claim(OwnerId::this_process(), |_| true).expect("unclaimed");
    /// // A full ring, whose producer asks for room.
    /// let longest = vec![0; producer.max_record()];
    /// let _ = push(&mut producer, &longest)?;
    /// let _ = push(&mut producer, &longest)?;
    /// assert_eq!(producer.request_refill(longest.len())?, Refill::Requested);
    ///
    /// while claim.next()?.is_some() {}
    /// assert_eq!(claim.release(), Bell::Ring);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn release(&mut self) -> Bell {
        let (old, new) = (self.head, self.next);
        if old == new {
            return Bell::Quiet;
        }
        self.region.head().store(new.get(), ordering::free());
        self.head = new;
        ordering::release_fence();
        // Relaxed: FENCE[release] orders it after the store of the head.
        let refill_at = Position::new(self.region.refill_at().load(Ordering::Relaxed));
        if refill_at.is_passed_by(old, new) {
            Bell::Ring
        } else {
            Bell::Quiet
        }
    }

    /// Asks for the doorbell to be rung for whatever is published from now on, and looks once more.
    ///
    /// # Errors
    /// [`Corrupt`] when the producer's tail is impossible.
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::ArmOutcome;
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
    /// assert_eq!(claim.arm()?, ArmOutcome::MaySleep);
    /// assert_eq!(push(&mut producer, b"one")?, Bell::Ring);
    /// assert_eq!(push(&mut producer, b"two")?, Bell::Quiet); // one ring for each arm
    /// assert_eq!(claim.arm()?, ArmOutcome::WorkPending);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn arm(&mut self) -> Result<ArmOutcome, Corrupt> {
        if self.has_pending()? {
            return Ok(ArmOutcome::WorkPending);
        }
        self.region
            .wake_at()
            .store(self.next.get(), Ordering::Relaxed);
        ordering::arm_fence();
        // Relaxed: FENCE[arm] orders it after the store of the wake-up position, and records are
        // read only after another look by `next`.
        self.look_at_tail()?;
        let pending = self.next != self.tail;
        self.tail = self.next;
        Ok(if pending {
            ArmOutcome::WorkPending
        } else {
            ArmOutcome::MaySleep
        })
    }
}

impl Drop for Claim<'_> {
    /// Ends the claim. What was handed out and not released is handed out again to the next one.
    fn drop(&mut self) {
        // Conditional, because another claimant, whose `is_alive` said that we are dead, may hold the
        // ring by now.
        // Relaxed on failure: nothing is done then.
        let _ = self.region.owner().compare_exchange(
            self.me.get(),
            UNOWNED,
            ordering::unclaim(),
            Ordering::Relaxed,
        );
    }
}

/// A record where the producer wrote it. It is copied out, because the producer's process may write there
/// again, by the protocol once it is released and against the protocol at any time: then the copy has
/// other bytes, and nothing worse happens.
#[derive(Debug)]
pub struct Record<'a> {
    region: &'a Region,
    at: Position,
    len: u32,
}

impl Record<'_> {
    /// Returns its length in bytes.
    #[must_use]
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "an empty record is a record")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Copies the record to the beginning of `buffer`, and returns the copy; `None` when it is longer.
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
    /// # let _ = push(&mut producer, b"record")?;
    /// let record = claim.next()?.expect("a record");
    /// assert_eq!(record.copy_to(&mut [0; 64]).as_deref(), Some(&b"record"[..]));
    /// assert!(record.copy_to(&mut [0; 5]).is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn copy_to<'b>(&self, buffer: &'b mut [u8]) -> Option<&'b mut [u8]> {
        let bytes = buffer.get_mut(..self.len())?;
        self.region.copy(self.at.advanced(FrameHeader::SIZE), bytes);
        Some(bytes)
    }

    /// Returns a copy of the record in memory of its own.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        let _all = self.copy_to(&mut bytes);
        bytes
    }

    /// Returns where the record's frame starts: what
    /// [`Reservation::commit`](crate::Reservation::commit) returned.
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
    /// # let _ = push(&mut producer, b"one")?;
    /// let start = producer.tail();
    /// # let _ = push(&mut producer, b"two")?;
    /// # let _one = claim.next()?;
    /// let record = claim.next()?.expect("the second record");
    /// assert_eq!(record.position(), start);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn position(&self) -> Position {
        self.at
    }
}
