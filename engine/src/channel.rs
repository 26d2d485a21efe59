//! The way out of one queue: records go into the ring while it has room, and into the spill while
//! it has none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentfs_core::event::Envelope;
use agentfs_core::id::Seq;
use agentfs_proto::record::{AgentFsEvent, Kind};
use agentfs_ring::{Bell, PeerError, Position, Producer, Refill, Reservation, Reserve};

use crate::counters::Counts;
use crate::doorbell::{self, Doorbell};
use crate::heal::{Base, Freezer, Replay};
use crate::record::Record;
use crate::spill::{Ordinal, Pool, Spill};
use crate::unheard::Unheard;

/// Where a record was put. The channel can say later whether it is still unread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum RecordPosition {
    /// Nowhere: there was no record, it was dropped, or it belongs to a difference that is being
    /// delivered.
    #[default]
    Nowhere,
    /// In the ring.
    Ring(Position),
    /// In the spill. A record that has moved on from there into the ring counts as read.
    Spill(Ordinal),
}

/// How much a queue may hold in memory for a reader that is slow.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// Records of this queue.
    pub(crate) records: usize,
    /// Bytes of all queues.
    pub(crate) pool: Arc<Pool>,
}

/// What waits because the ring is full, in the order in which it is delivered: the rest of a
/// difference, then records, then the difference to a frozen state.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) replay: Option<Replay>,
    pub(crate) spill: Spill,
    pub(crate) heal: Option<Base>,
    /// The queue is held for a reader of an earlier process: what that one has missed before this process
    /// began, or `None` when that is not known.
    pub(crate) held: Option<Option<Vec<Envelope>>>,
    /// The changes up to this one are delivered, or were, as ones that the reader has missed.
    pub(crate) missed_through: Seq,
    /// The difference delivers the changes up to this one, so none of them becomes a record of its
    /// own.
    pub(crate) healed_through: Seq,
    /// Events are dropped. An overflow record at the end of the spill reports that.
    pub(crate) lossy: bool,
}

impl Backlog {
    /// Returns whether nothing waits, so that a record may go straight into the ring.
    #[inline]
    fn is_empty(&self) -> bool {
        self.spill.is_empty() && self.replay.is_none()
    }
}

/// The ring of a queue, its doorbell, and what waits for room.
#[derive(Debug)]
pub(crate) struct Channel {
    producer: Producer,
    pub(crate) doorbell: Doorbell,
    unheard: Unheard,
    pub(crate) backlog: Backlog,
    bounds: Bounds,
    freezer: Freezer,
    /// The mask of an overflow record in the queue's API.
    overflow_mask: u32,
    /// Where the last record is. It is followed from the spill into the ring.
    pub(crate) last: RecordPosition,
    pub(crate) counters: Counts,
    broken: Option<PeerError>,
    /// How many queues of the session have something that waits, and whether this one is among them.
    waiting: Arc<AtomicUsize>,
    is_waiting: bool,
}

/// The outcome of writing a record into the ring.
enum Written {
    At(Position),
    RingFull,
}

impl Channel {
    pub(crate) fn new(
        producer: Producer,
        doorbell: Doorbell,
        bounds: Bounds,
        freezer: Freezer,
        overflow_mask: u32,
        waiting: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            waiting,
            is_waiting: false,
            producer,
            doorbell,
            unheard: Unheard::default(),
            backlog: Backlog {
                replay: None,
                spill: Spill::new(Arc::clone(&bounds.pool)),
                heal: None,
                held: None,
                missed_through: Seq(0),
                healed_through: Seq(0),
                lossy: false,
            },
            bounds,
            freezer,
            overflow_mask,
            last: RecordPosition::Nowhere,
            counters: Counts::default(),
            broken: None,
        }
    }

    /// Returns what the consumer did wrong to its ring. A channel that is broken takes no more
    /// records.
    pub(crate) fn broken(&self) -> Option<PeerError> {
        self.broken
    }

    pub(crate) fn capacity(&self) -> usize {
        self.producer.capacity().bytes()
    }

    pub(crate) fn unread_bytes(&mut self) -> usize {
        if let Err(error) = self.producer.observe_head() {
            self.note(error);
        }
        self.producer.used()
    }

    fn note(&mut self, error: PeerError) {
        self.broken.get_or_insert(error);
    }

    /// Returns whether a change becomes a record now. Otherwise it is part of a difference: of the
    /// one that is being delivered, or of one that follows.
    #[inline]
    pub(crate) fn admits(&self, seq: Seq) -> bool {
        let Backlog {
            replay,
            heal,
            held,
            healed_through,
            ..
        } = &self.backlog;
        if held.is_some() {
            return false;
        }
        replay.as_ref().is_some_and(Replay::is_delivering)
            || seq > *healed_through && heal.as_ref().is_none_or(|base| seq <= base.seq())
    }

    /// Returns whether a change that is not admitted reaches the reader among those that it has missed.
    pub(crate) fn is_among_missed(&self, seq: Seq) -> bool {
        self.backlog.held.is_some() || seq <= self.backlog.missed_through
    }

    /// Returns whether something waits for the reader elsewhere than in its ring.
    pub(crate) fn has_backlog(&self) -> bool {
        let backlog = &self.backlog;
        !backlog.is_empty() || backlog.heal.is_some() || backlog.held.is_some()
    }

    /// Returns whether the reader has not read a record yet, so that an event which says the same
    /// adds nothing.
    #[inline]
    pub(crate) fn is_unread(&mut self, place: RecordPosition) -> bool {
        match place {
            RecordPosition::Nowhere => false,
            RecordPosition::Spill(ordinal) => self.backlog.spill.holds(ordinal),
            RecordPosition::Ring(at) => match self.producer.is_unread(at) {
                Ok(unread) => unread,
                Err(error) => {
                    self.note(error);
                    false
                }
            },
        }
    }

    /// Enqueues a record: in the ring, or behind the records that wait already. If it is too long for
    /// any ring, an overflow record takes its place.
    pub(crate) fn enqueue(
        &mut self,
        event: &AgentFsEvent,
        path: &[u8],
        aux: &[u8],
    ) -> RecordPosition {
        if self.broken.is_some() {
            return RecordPosition::Nowhere;
        }
        let overflow;
        let record = match Record::new(event, path, aux) {
            Some(record) if record.len <= self.producer.max_record() => record,
            Some(_) | None => {
                self.counters.overflowed += 1;
                overflow = self.overflow_record();
                Record::without_paths(&overflow)
            }
        };
        if let Some(replay) = &mut self.backlog.replay
            && replay.is_delivering()
        {
            replay.hold(record);
            self.last = RecordPosition::Nowhere;
            return self.last;
        }
        self.last = if self.backlog.is_empty() {
            match self.write(record.len, |slot| record.encode(|part| slot.put(part))) {
                Ok(Written::At(position)) => RecordPosition::Ring(position),
                Ok(Written::RingFull) => self.hold_back(record),
                Err(error) => {
                    self.note(error);
                    RecordPosition::Nowhere
                }
            }
        } else {
            self.hold_back(record)
        };
        self.last
    }

    /// Writes a record into the ring, or asks the reader to ring back when there is room.
    #[inline]
    fn write(
        &mut self,
        len: usize,
        fill: impl Fn(&mut Reservation<'_>),
    ) -> Result<Written, PeerError> {
        loop {
            match self.producer.reserve(len)? {
                Reserve::Slot(mut slot) => {
                    fill(&mut slot);
                    let position = slot.commit();
                    self.counters.published += 1;
                    return Ok(Written::At(position));
                }
                // `enqueue` has replaced every record that never fits.
                Reserve::TooLong => return Ok(Written::RingFull),
                // The reader cannot read, and so cannot ring back for, what is not published.
                Reserve::Full => match self.publish_and_ask(len)? {
                    Refill::SpaceNow => {}
                    Refill::Requested => return Ok(Written::RingFull),
                },
            }
        }
    }

    #[cold]
    fn publish_and_ask(&mut self, len: usize) -> Result<Refill, PeerError> {
        self.publish_to_ring()?;
        self.producer.request_refill(len)
    }

    #[cold]
    fn hold_back(&mut self, record: Record<'_>) -> RecordPosition {
        if self.backlog.lossy {
            return RecordPosition::Nowhere;
        }
        let full = self.backlog.spill.len() >= self.bounds.records || !self.bounds.pool.has_room();
        if full && self.backlog.heal.is_none() {
            match self.freezer.freeze() {
                // The frozen state has this change and may have later ones, which are on their way
                // here as events. Those few are kept.
                Some(base) => self.backlog.heal = Some(base),
                None => {
                    self.overflow();
                    return RecordPosition::Nowhere;
                }
            }
        }
        self.counters.spilled += 1;
        RecordPosition::Spill(record.spill_into(&mut self.backlog.spill))
    }

    /// Enqueues one overflow record behind everything that waits, and drops events until there is
    /// room.
    pub(crate) fn overflow(&mut self) {
        if !std::mem::replace(&mut self.backlog.lossy, true) {
            self.counters.overflowed += 1;
            let event = self.overflow_record();
            let ordinal = Record::without_paths(&event).spill_into(&mut self.backlog.spill);
            self.last = RecordPosition::Spill(ordinal);
        }
    }

    fn overflow_record(&self) -> AgentFsEvent {
        AgentFsEvent {
            kind: Kind::OVERFLOW,
            watch: u64::MAX,
            mask: self.overflow_mask,
            ..AgentFsEvent::default()
        }
    }

    /// Moves records of the difference that is being delivered into the ring, as far as there is
    /// room. Returns whether none of them waits any more.
    pub(crate) fn drain_replay(&mut self) -> bool {
        let Some(mut replay) = self.backlog.replay.take() else {
            return true;
        };
        let last = self.last;
        let empty = self.move_all(replay.waiting());
        self.last = last;
        self.backlog.replay = Some(replay);
        empty
    }

    /// Returns whether a difference is being worked out.
    pub(crate) fn is_awaiting(&self) -> bool {
        let replay = self.backlog.replay.as_ref();
        replay.is_some_and(Replay::is_awaited)
    }

    /// Ends the difference that is being delivered. Returns whether there was one.
    pub(crate) fn end_replay(&mut self) -> bool {
        self.backlog.replay.take().is_some()
    }

    /// Moves spilled records into the ring, as far as there is room. Returns whether none waits any
    /// more.
    pub(crate) fn drain_spill(&mut self) -> bool {
        let empty_spill = Spill::new(Arc::clone(&self.bounds.pool));
        let mut spill = std::mem::replace(&mut self.backlog.spill, empty_spill);
        let empty = self.move_all(&mut spill);
        if spill.len() <= self.bounds.records / 2 {
            self.backlog.lossy = false;
        }
        self.backlog.spill = spill;
        empty
    }

    fn move_all(&mut self, spill: &mut Spill) -> bool {
        while let Some((ordinal, record)) = spill.front() {
            match self.write(record.len(), |slot| slot.put(record)) {
                Ok(Written::At(position)) => {
                    if self.last == RecordPosition::Spill(ordinal) {
                        self.last = RecordPosition::Ring(position);
                    }
                }
                Ok(Written::RingFull) => return false,
                Err(error) => {
                    self.note(error);
                    return false;
                }
            }
            spill.pop();
        }
        true
    }

    /// Makes enqueued records visible to the reader, and rings its doorbell if it sleeps.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if self.broken.is_none()
            && let Err(error) = self.publish_to_ring()
        {
            self.note(error);
        }
        if self.has_backlog() != self.is_waiting {
            self.note_waiting();
        }
    }

    #[cold]
    fn note_waiting(&mut self) {
        self.is_waiting = !self.is_waiting;
        // Relaxed: it is read by the thread that has published for all queues.
        if self.is_waiting {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[inline]
    fn publish_to_ring(&mut self) -> Result<(), PeerError> {
        let now = doorbell::now_ms();
        if self.producer.publish()? == Bell::Ring {
            self.counters.doorbells += 1;
            self.ring();
            self.look_at_reader(now)?;
        } else if self.unheard.is_due(now) && self.look_at_reader(now)? {
            self.ring();
        }
        Ok(())
    }

    fn ring(&mut self) {
        self.doorbell.ring();
        self.producer.note_ring();
    }

    /// Returns whether the reader has stood still before something to read.
    fn look_at_reader(&mut self, now_ms: u64) -> Result<bool, PeerError> {
        let head = self.producer.observe_head()?;
        let is_behind = head != self.producer.tail();
        Ok(self.unheard.look(now_ms, head, is_behind))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if self.is_waiting {
            self.note_waiting();
        }
    }
}
