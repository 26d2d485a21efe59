//! actor -> FsCore operation -> Event -> Router -> Synthesizer -> **Ring** -> **Doorbell** -> Hook
//!
//! A single-producer single-consumer byte ring in shared memory for records of any length, and the
//! protocol by which each end sleeps and is woken. The daemon produces; a program's own thread
//! consumes. It knows no event and no filesystem, moves no thread, and makes no system call but to
//! set itself up and to ring.
//!
//! ```
//! use agentfs_ring::{ArmOutcome, Bell, Capacity, OwnerId, Reserve, heap};
//!
//! let (mut producer, consumer) = heap(Capacity::DEFAULT)?;
//! let mut claim = consumer.claim(OwnerId::this_process(), |_| true).expect("nobody else pops");
//! assert_eq!(claim.arm()?, ArmOutcome::MaySleep);
//!
//! let Reserve::Slot(mut slot) = producer.reserve(6)? else { panic!("an empty ring has room") };
//! slot.put(b"record");
//! slot.commit();
//! assert_eq!(producer.publish()?, Bell::Ring); // the consumer sleeps: ring its doorbell
//!
//! assert_eq!(claim.next()?.expect("published").to_vec(), b"record");
//! assert_eq!(claim.release(), Bell::Quiet); // the producer does not wait for space
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How it works
//!
//! **Who writes what.** Every shared word has one writer: the producer writes `tail`, `refill_at`
//! and the frames, the claimed consumer writes `head` and `wake_at`, and whoever claims writes
//! `owner`. Positions are bytes since the beginning and only grow; a mask finds their place.
//!
//! **Publish and observe.** The producer writes a frame into free bytes, then stores the tail
//! behind it. A consumer that loads that tail sees the frame. A frame never wraps: one that would
//! is preceded by a padding frame up to the end of the ring.
//!
//! **Free and reuse.** The consumer reads a record where it lies, then stores the head behind it. A
//! producer that loads that head may write there again. It looks only when the ring seems full.
//!
//! **Arm and ring.** A consumer that finds nothing stores its position into `wake_at`, fences, and
//! looks at the tail once more. A producer stores the tail, fences, and looks at `wake_at`: it rings
//! if this publish passed it. Of the two fences one comes first, so either the consumer finds the
//! record in its second look, or the producer finds the position: nobody sleeps over a record. One
//! position is passed by one publish, so there is at most one ring per arm, and none while the
//! consumer is awake. This is the event index of virtio (`vring_need_event`).
//!
//! **Full and refill.** The same, the other way round: a producer without room stores a position
//! into `refill_at`, fences, and looks at the head once more; a consumer that releases stores the
//! head, fences, and rings back if it passed that position.
//!
//! **Coalesce against unread.** [`Producer::is_unread`] fences between a change and its look at the
//! head; [`Claim::release`] fences between its store of the head and whatever the program does next.
//! So when the record is found unread, the program that gets it looks at the changed thing after
//! the change.
//!
//! **Several consumers.** Threads and forked children share the consuming end. Its state lives in
//! the region, and `owner` says who may move it; taking it never waits, so a signal handler that
//! reads while its own thread pops learns that somebody pops, instead of deadlocking. An owner that
//! died is replaced.
//!
//! **Readers that hold nothing.** A reader may be killed, stopped, or left by a jump at any moment, and
//! its process may share the ring with others. [`Consumer::peek`] copies the first record and
//! [`Consumer::take`] moves the head from where it stood, so one of several readers has the record, and an
//! abandoned one leaves it to the next. [`Consumer::look`] says before a sleep whether something is there
//! although no bell is heard, because a bell can be lost: another process may take it away and read
//! nothing. Claims and this way of reading do not mix in one ring.
//!
//! **Peer death.** Each end holds a descriptor whose other end only the peer holds
//! ([`doorbell::peer_is_gone`], [`doorbell::Waiter::wait`]). What was published stays readable.
//!
//! **What is not relied on.** That the peer is well-behaved: the producer checks every word that it
//! reads and ends the session of a consumer that lies; the consumer checks every length. That
//! anything is delivered in time: a late reader costs the others nothing.
//!
//! The orderings are in the `ordering` module, each under its label and each with a model in
//! `agentfs-loom-tests` that fails without it. The layout is in `docs/ring-abi.md`.

mod consumer;
#[cfg_attr(
    loom,
    expect(dead_code, reason = "a model has no mapping to lay out or check")
)]
mod layout;
#[doc(hidden)]
pub mod ordering;
mod owner;
mod peer_error;
mod position;
mod producer;
mod region;
mod reservation;
mod sync;
mod unclaimed;

#[cfg(not(loom))]
pub mod doorbell;
#[cfg(not(loom))]
mod mapping;
pub mod requests;

pub use consumer::{ArmOutcome, Claim, Consumer, Corrupt, Record};
#[cfg(not(loom))]
pub use mapping::{MapError, OpenError, create, heap};
pub use owner::OwnerId;
pub use peer_error::PeerError;
pub use position::{Capacity, CapacityError, Position};
pub use producer::{Bell, Producer, Refill};
pub use reservation::{Reservation, Reserve};
pub use unclaimed::{Armed, Copied, Look, Place, RecordBuffer};

/// Makes both ends of a ring in a model's memory.
#[cfg(loom)]
#[must_use]
pub fn heap(capacity: Capacity) -> (Producer, Consumer) {
    let (producer, consumer) = region::Region::in_process(capacity, false);
    (Producer::new(producer), Consumer::new(consumer))
}

/// Makes both ends of a ring in a model's memory, whose readers hold no claim: they may look at bytes that
/// are written over, and loom lets them.
#[cfg(loom)]
#[must_use]
pub fn heap_for_unclaimed(capacity: Capacity) -> (Producer, Consumer) {
    let (producer, consumer) = region::Region::in_process(capacity, true);
    (Producer::new(producer), Consumer::new(consumer))
}
