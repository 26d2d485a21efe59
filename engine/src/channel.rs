//! One queue's way out: into the ring while there is room, into the spill while there is not.

use std::sync::Arc;

use agentfs_core::id::Seq;
use agentfs_proto::record::{AgentFsEvent, HEAD_LEN, Kind, encoded_len, write_to};
use agentfs_ring::{Bell, PeerError, Position, Producer, Refill, Reserve};

use crate::counters::Counts;
use crate::doorbell::Doorbell;
use crate::heal::{Base, Freeze, Replay};
use crate::spill::{Ordinal, Pool, Spill};

/// Where a record was put, to ask later whether it is still unread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum RecordPosition {
    /// Nowhere.
    #[default]
    Nowhere,
    /// Into the ring.
    Ring(Position),
    /// Into the spill. Once it has left for the ring it counts as read.
    Spill(Ordinal),
}

/// How much a queue may hold back in the daemon's memory.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// Records of this queue.
    pub(crate) records: usize,
    /// Bytes of all queues.
    pub(crate) pool: Arc<Pool>,
}

/// What waits because the ring is full, in the order in which it will be told: the rest of a
/// difference, then records, then the difference to a frozen state.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) replay: Option<Replay>,
    pub(crate) spill: Spill,
    pub(crate) heal: Option<Base>,
    /// Changes up to here were or will be told by a difference.
    pub(crate) healed_through: Seq,
    /// Events are dropped, as the overflow record at the end of the spill says.
    pub(crate) lossy: bool,
}

/// The ring, its doorbell, and what waits for room.
#[derive(Debug)]
pub(crate) struct Channel {
    producer: Producer,
    pub(crate) doorbell: Doorbell,
    pub(crate) backlog: Backlog,
    bounds: Bounds,
    /// What the overflow record of the queue's API says.
    overflow_mask: u32,
    /// Where the last record is, also after it left the spill.
    pub(crate) last: RecordPosition,
    pub(crate) counters: Counts,
    broken: Option<PeerError>,
}

/// What became of an attempt to put a record into the ring.
enum Put {
    At(Position),
    Full,
}

impl Channel {
    pub(crate) fn new(
        producer: Producer,
        doorbell: Doorbell,
        bounds: Bounds,
        overflow_mask: u32,
    ) -> Self {
        Self {
            producer,
            doorbell,
            backlog: Backlog {
                replay: None,
                spill: Spill::new(Arc::clone(&bounds.pool)),
                heal: None,
                healed_through: Seq(0),
                lossy: false,
            },
            bounds,
            overflow_mask,
            last: RecordPosition::Nowhere,
            counters: Counts::default(),
            broken: None,
        }
    }

    /// What the consumer did wrong, if it did. Nothing is sent to it any more.
    pub(crate) fn broken(&self) -> Option<PeerError> {
        self.broken
    }

    pub(crate) fn capacity(&self) -> usize {
        self.producer.capacity().bytes()
    }

    pub(crate) fn unread_bytes(&mut self) -> usize {
        let observed = self.producer.observe_head();
        self.check(observed.map(drop));
        self.producer.used()
    }

    fn check(&mut self, outcome: Result<(), PeerError>) {
        if let Err(error) = outcome {
            self.broken.get_or_insert(error);
        }
    }

    /// Whether a change is to be told now, and not by a difference later or before.
    #[inline]
    pub(crate) fn admits(&self, seq: Seq) -> bool {
        let Backlog {
            replay,
            heal,
            healed_through,
            ..
        } = &self.backlog;
        replay.as_ref().is_some_and(Replay::is_delivering)
            || seq > *healed_through && heal.as_ref().is_none_or(|base| seq <= base.seq())
    }

    /// Whether the reader has not read the record yet, so that what is added to it now is seen.
    #[inline]
    pub(crate) fn is_unread(&mut self, place: RecordPosition) -> bool {
        match place {
            RecordPosition::Nowhere => false,
            RecordPosition::Spill(ordinal) => self.backlog.spill.holds(ordinal),
            RecordPosition::Ring(at) => match self.producer.is_unread(at) {
                Ok(unread) => unread,
                Err(error) => {
                    self.check(Err(error));
                    false
                }
            },
        }
    }

    /// Sends a record: into the ring, or behind what waits already. In the place of one that is too
    /// long for any ring goes an overflow record. `freeze` is asked for the state
    /// of the branch when nothing more may wait.
    pub(crate) fn enqueue(
        &mut self,
        event: &AgentFsEvent,
        path: &[u8],
        aux: &[u8],
        freeze: Freeze<'_>,
    ) -> RecordPosition {
        if self.broken.is_some() {
            return RecordPosition::Nowhere;
        }
        if encoded_len(path, aux).is_ok_and(|len| len <= self.producer.max_record()) {
            self.enqueue_fitting(event, path, aux, freeze)
        } else {
            self.counters.overflowed += 1;
            let event = self.overflow_record();
            self.enqueue_fitting(&event, &[], &[], freeze)
        }
    }

    #[inline]
    fn enqueue_fitting(
        &mut self,
        event: &AgentFsEvent,
        path: &[u8],
        aux: &[u8],
        freeze: Freeze<'_>,
    ) -> RecordPosition {
        if let Some(replay) = &mut self.backlog.replay
            && replay.is_delivering()
        {
            replay.wait(event, path, aux);
            self.last = RecordPosition::Nowhere;
            return self.last;
        }
        let straight = self.backlog.spill.is_empty() && self.backlog.replay.is_none();
        let place = if straight {
            match self.put(event, path, aux) {
                Ok(Put::At(at)) => RecordPosition::Ring(at),
                Ok(Put::Full) => self.hold_back(event, path, aux, freeze),
                Err(error) => {
                    self.check(Err(error));
                    RecordPosition::Nowhere
                }
            }
        } else {
            self.hold_back(event, path, aux, freeze)
        };
        self.last = place;
        place
    }

    /// Into the ring, asking the reader to ring back if there is no room.
    fn put(&mut self, event: &AgentFsEvent, path: &[u8], aux: &[u8]) -> Result<Put, PeerError> {
        let len = encoded_len(path, aux).unwrap_or(HEAD_LEN);
        self.put_with(len, |slot| write_record(slot, event, path, aux))
    }

    fn put_with(&mut self, len: usize, write: impl Fn(&mut [u8])) -> Result<Put, PeerError> {
        loop {
            match self.producer.reserve(len)? {
                Reserve::Slot(mut slot) => {
                    write(&mut slot);
                    let at = slot.commit();
                    self.counters.published += 1;
                    return Ok(Put::At(at));
                }
                // `send` has sorted out what never fits.
                Reserve::TooLong => return Ok(Put::Full),
                // What is committed and not published can never be read, so nor ring back.
                Reserve::Full => match self.publish_and_ask(len)? {
                    Refill::SpaceNow => {}
                    Refill::Requested => return Ok(Put::Full),
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
    fn hold_back(
        &mut self,
        event: &AgentFsEvent,
        path: &[u8],
        aux: &[u8],
        freeze: Freeze<'_>,
    ) -> RecordPosition {
        if self.backlog.lossy {
            return RecordPosition::Nowhere;
        }
        let full = self.backlog.spill.len() >= self.bounds.records || !self.bounds.pool.has_room();
        if full && self.backlog.heal.is_none() {
            match freeze() {
                // The state is as new as this change or newer: what it holds beyond is still on its
                // way as events, and those few are kept.
                Some(base) => self.backlog.heal = Some(base),
                None => {
                    self.overflow();
                    return RecordPosition::Nowhere;
                }
            }
        }
        self.counters.spilled += 1;
        RecordPosition::Spill(wait_in(&mut self.backlog.spill, event, path, aux))
    }

    /// Says once that events are lost, behind all that waits, and loses them until there is room.
    pub(crate) fn overflow(&mut self) {
        if !std::mem::replace(&mut self.backlog.lossy, true) {
            self.counters.overflowed += 1;
            let event = self.overflow_record();
            self.last = RecordPosition::Spill(wait_in(&mut self.backlog.spill, &event, &[], &[]));
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

    /// Moves what the replay has said and could not be put yet, as far as there is room. True when
    /// nothing of it waits any more.
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

    /// Whether a difference is being found.
    pub(crate) fn is_awaiting(&self) -> bool {
        let replay = self.backlog.replay.as_ref();
        replay.is_some_and(Replay::is_awaited)
    }

    /// Whether a difference was told to its end just now.
    pub(crate) fn end_replay(&mut self) -> bool {
        self.backlog.replay.take().is_some()
    }

    /// Moves the records that wait, as far as there is room. True when none waits any more.
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
            let put = self.put_with(record.len(), |slot| slot.copy_from_slice(record));
            match put {
                Ok(Put::At(at)) => {
                    if self.last == RecordPosition::Spill(ordinal) {
                        self.last = RecordPosition::Ring(at);
                    }
                }
                Ok(Put::Full) => return false,
                Err(error) => {
                    self.check(Err(error));
                    return false;
                }
            }
            spill.pop();
        }
        true
    }

    /// Shows the reader what was sent, and wakes it if it sleeps.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if self.broken.is_none() {
            let outcome = self.publish_to_ring();
            self.check(outcome);
        }
    }

    #[inline]
    fn publish_to_ring(&mut self) -> Result<(), PeerError> {
        if self.producer.publish()? == Bell::Ring {
            self.counters.doorbells += 1;
            self.doorbell.ring();
        }
        Ok(())
    }
}

/// Appends a record to a spill.
pub(crate) fn wait_in(spill: &mut Spill, event: &AgentFsEvent, path: &[u8], aux: &[u8]) -> Ordinal {
    let len = encoded_len(path, aux).unwrap_or(HEAD_LEN);
    spill.push(len, |slot| write_record(slot, event, path, aux))
}

fn write_record(slot: &mut [u8], event: &AgentFsEvent, path: &[u8], aux: &[u8]) {
    // The slot has the encoded length, so nothing can be wrong with it.
    let written = write_to(slot, event, path, aux);
    debug_assert_eq!(written, Ok(()), "a slot of the encoded length");
}
