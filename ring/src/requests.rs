//! A channel the other way: small requests of fixed size, from a program to the daemon, through
//! shared memory.
//!
//! A request costs the program a few memory writes and no system call. The daemon is not woken: it
//! looks ([`RequestReader::next`]) whenever an answer to a request could make a difference, that is
//! before it acts on anything.
//!
//! **What is promised.** When [`RequestWriter::send`] has returned [`Sent::Sent`], every later look
//! finds the requests. "Later" covers also what is only ordered by fences on both sides: the writer
//! fences after it has published, the reader before it looks. So a program that sends a request
//! and then looks at a file, while the daemon changes that file and then looks for requests, either
//! sees the change or has its request found.
//!
//! **Who writes what.** Programs write `tail`, the slots and `lock`; the daemon writes `head` and
//! believes only its own copy of it. Threads and forked children share the writing end under
//! `lock`, which is never waited for here. The daemon copies every slot before it looks at it, and
//! nothing in the region can make it read out of bounds, panic, or go round more than once.
#![expect(
    unsafe_code,
    reason = "turns offsets of a mapping into references to atomics"
)]
#![expect(
    clippy::cast_ptr_alignment,
    reason = "mappings are page-aligned, offsets are asserted"
)]

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::os::fd::OwnedFd;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::fstat;

use crate::OwnerId;
use crate::mapping::{MapError, OpenError, anonymous, check_seals, seal};

/// 64-bit words of a request.
pub const REQUEST_WORDS: usize = 4;

/// One request. The ring does not know what it says.
pub type Request = [u64; REQUEST_WORDS];

/// Slots of a channel made by [`create`].
pub const SLOTS: u32 = 4096;

const MAGIC: u64 = u64::from_be_bytes(*b"AGFSREQ1");
const SLOTS_OFFSET: usize = 4096;

/// The first page of a region. `docs/shim-protocol.md` has it as a table.
#[repr(C)]
struct Header {
    magic: AtomicU64,
    slots: AtomicU32,
    slot_bytes: AtomicU32,
    _to_tail: [u8; 48],
    tail: AtomicU64,
    _to_head: [u8; 56],
    head: AtomicU64,
    _to_lock: [u8; 56],
    lock: AtomicU64,
}

type Slot = [AtomicU64; REQUEST_WORDS];

const _: () = {
    assert!(size_of::<Header>() <= SLOTS_OFFSET);
    assert!(SLOTS_OFFSET.is_multiple_of(align_of::<Slot>()));
    assert!(core::mem::offset_of!(Header, tail) == 64);
    assert!(core::mem::offset_of!(Header, head) == 128);
    assert!(core::mem::offset_of!(Header, lock) == 192);
};

const fn region_len() -> usize {
    SLOTS_OFFSET + SLOTS as usize * size_of::<Slot>()
}

/// A mapping of at least [`region_len`] bytes, page-aligned.
#[derive(Debug)]
struct Region(MmapRaw);

impl Region {
    fn header(&self) -> &Header {
        // SAFETY: the mapping is page-aligned and longer than a header, lives as long as `self`, and
        // every field that is reachable is an atomic, for which any bits are a value.
        unsafe { &*self.0.as_ptr().cast::<Header>() }
    }

    fn slot(&self, position: u64) -> &Slot {
        #[expect(clippy::cast_possible_truncation, reason = "less than SLOTS")]
        let index = (position % u64::from(SLOTS)) as usize;
        let offset = SLOTS_OFFSET + index * size_of::<Slot>();
        // SAFETY: the index is less than SLOTS, so the offset is inside the mapping.
        let at = unsafe { self.0.as_ptr().add(offset) };
        // SAFETY: aligned (asserted above), inside the mapping, and made of atomics.
        unsafe { &*at.cast::<Slot>() }
    }
}

/// The program's tail makes no sense: it is broken or hostile. End its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TailError {
    found: u64,
    head: u64,
}

impl fmt::Display for TailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests are said to be sent, but {} were read and {SLOTS} fit: close the session",
            self.found, self.head
        )
    }
}

impl core::error::Error for TailError {}

/// The daemon's end.
#[derive(Debug)]
pub struct RequestReader {
    region: Region,
    head: u64,
}

/// Makes a channel. The descriptor goes to the program, which opens it with
/// [`RequestWriter::open`].
///
/// # Errors
/// [`MapError`] when the system refuses memory or descriptors.
///
/// # Examples
/// ```
/// use agentfs_ring::OwnerId;
/// use agentfs_ring::requests::{RequestWriter, Sent, create};
///
/// let (mut reader, fd) = create()?;
/// let writer = RequestWriter::open(fd)?; // in the program
/// let me = OwnerId::this_process();
/// assert_eq!(writer.send([1, 2, 3, 4], me, |_| true), Sent::Sent);
///
/// assert_eq!(reader.next()?, Some([1, 2, 3, 4]));
/// assert_eq!(reader.next()?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn create() -> Result<(RequestReader, OwnedFd), MapError> {
    let fd = anonymous(region_len() as u64)?;
    let map = MmapOptions::new()
        .len(region_len())
        .map_raw(&fd)
        .map_err(MapError::at("map memory"))?;
    let region = Region(map);
    let header = region.header();
    // Relaxed: the program sees the region after the message that its descriptor comes with.
    header.magic.store(MAGIC, Ordering::Relaxed);
    header.slots.store(SLOTS, Ordering::Relaxed);
    #[expect(clippy::cast_possible_truncation, reason = "32")]
    header
        .slot_bytes
        .store(size_of::<Slot>() as u32, Ordering::Relaxed);
    seal(&fd)?;
    Ok((RequestReader { region, head: 0 }, fd))
}

impl RequestReader {
    /// Whether there is something to read. A fence and a load: cheap enough for every commit.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        // Pairs with the fence in `RequestWriter::send`: after the commit, before the look.
        fence(Ordering::SeqCst);
        self.region.header().tail.load(Ordering::Acquire) != self.head
    }

    /// The next request, or `None` when all were read. Its slot is free afterwards.
    ///
    /// # Errors
    /// [`TailError`] when the program claims to have sent more than fits, or less than was read.
    #[expect(
        clippy::should_implement_trait,
        reason = "it fails, and may go on after None"
    )]
    pub fn next(&mut self) -> Result<Option<Request>, TailError> {
        fence(Ordering::SeqCst);
        let header = self.region.header();
        // Acquire: pairs with the store in `send`; the slots before the tail are written.
        let tail = header.tail.load(Ordering::Acquire);
        if tail == self.head {
            return Ok(None);
        }
        if tail.wrapping_sub(self.head) > u64::from(SLOTS) {
            return Err(TailError {
                found: tail,
                head: self.head,
            });
        }
        let slot = self.region.slot(self.head);
        // Relaxed: copied once, judged by the caller; ordered by the load of the tail.
        let request = slot.each_ref().map(|word| word.load(Ordering::Relaxed));
        self.head = self.head.wrapping_add(1);
        // Release: whoever sees the slot free may write it, after we have read it.
        header.head.store(self.head, Ordering::Release);
        Ok(Some(request))
    }
}

/// What became of a request.
#[must_use = "a request that was not sent is not heard"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// The reader finds it.
    Sent,
    /// No slot is free until the reader has looked: make it look, then send again.
    Full,
    /// Another thread or process is sending right now: send again.
    Busy,
    /// This very thread is sending, below a signal handler: it can only be sent afterwards.
    Reentered,
}

/// The program's end, which threads and forked children share.
#[derive(Debug)]
pub struct RequestWriter {
    region: Region,
}

impl RequestWriter {
    /// Maps a channel.
    ///
    /// # Errors
    /// [`OpenError`] when the descriptor holds no such channel.
    pub fn open(fd: OwnedFd) -> Result<Self, OpenError> {
        check_seals(&fd)?;
        let stat = fstat(&fd)
            .map_err(MapError::at("look at the memory"))
            .map_err(OpenError::Map)?;
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        let needed = region_len() as u64;
        if found < needed {
            return Err(OpenError::TooSmall { found, needed });
        }
        let map = MmapOptions::new()
            .len(region_len())
            .map_raw(&fd)
            .map_err(MapError::at("map memory"))
            .map_err(OpenError::Map)?;
        let region = Region(map);
        let header = region.header();
        let magic = header.magic.load(Ordering::Relaxed);
        if magic != MAGIC {
            return Err(OpenError::BadMagic(magic.to_ne_bytes()));
        }
        let geometry = (
            header.slots.load(Ordering::Relaxed),
            header.slot_bytes.load(Ordering::Relaxed) as usize,
        );
        if geometry != (SLOTS, size_of::<Slot>()) {
            return Err(OpenError::Geometry);
        }
        Ok(Self { region })
    }

    /// Sends a request. Never waits. `me` names the thread, and `is_alive` is asked about a thread
    /// that holds the lock: who died while sending is passed over.
    pub fn send(
        &self,
        request: Request,
        me: OwnerId,
        is_alive: impl FnOnce(OwnerId) -> bool,
    ) -> Sent {
        let header = self.region.header();
        let lock = &header.lock;
        let take = |from: u64| {
            // Acquire: the tail and slots of whoever held it before are seen.
            lock.compare_exchange(from, me.get(), Ordering::Acquire, Ordering::Relaxed)
        };
        if let Err(held) = take(UNLOCKED) {
            let Some(holder) = core::num::NonZeroU64::new(held).map(OwnerId::new) else {
                return Sent::Busy;
            };
            if holder == me {
                return Sent::Reentered;
            }
            if is_alive(holder) || take(held).is_err() {
                return Sent::Busy;
            }
        }
        let sent = self.append(request);
        // Release: pairs with the acquire above.
        let _ = lock.compare_exchange(me.get(), UNLOCKED, Ordering::Release, Ordering::Relaxed);
        sent
    }

    fn append(&self, request: Request) -> Sent {
        let header = self.region.header();
        // Relaxed: only holders of the lock write it.
        let tail = header.tail.load(Ordering::Relaxed);
        // Acquire: pairs with the store in `next`; the slot has been read.
        if tail.wrapping_sub(header.head.load(Ordering::Acquire)) >= u64::from(SLOTS) {
            return Sent::Full;
        }
        for (word, value) in self.region.slot(tail).iter().zip(request) {
            word.store(value, Ordering::Relaxed);
        }
        // Release: pairs with the load in `next`.
        header.tail.store(tail.wrapping_add(1), Ordering::Release);
        // Pairs with the fence in `has_pending` and `next`: before whatever the program does next.
        fence(Ordering::SeqCst);
        Sent::Sent
    }
}

const UNLOCKED: u64 = 0;

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU64;

    fn owner(id: u64) -> OwnerId {
        OwnerId::new(NonZeroU64::new(id).expect("not zero"))
    }

    fn channel() -> (RequestReader, RequestWriter) {
        let (reader, fd) = create().expect("a channel");
        (reader, RequestWriter::open(fd).expect("its other end"))
    }

    #[test]
    fn requests_come_in_order_and_wrap() {
        let (mut reader, writer) = channel();
        for round in 0..3_u64 {
            for number in 0..u64::from(SLOTS) {
                let request = [round, number, 0, 1];
                assert_eq!(writer.send(request, owner(1), |_| true), Sent::Sent);
            }
            assert_eq!(writer.send([0; 4], owner(1), |_| true), Sent::Full);
            for number in 0..u64::from(SLOTS) {
                assert_eq!(reader.next(), Ok(Some([round, number, 0, 1])));
            }
            assert!(!reader.has_pending());
            assert_eq!(reader.next(), Ok(None));
        }
    }

    #[test]
    fn a_lock_is_respected_while_its_holder_lives_and_taken_when_it_died() {
        let (mut reader, writer) = channel();
        writer.region.header().lock.store(7, Ordering::Relaxed);
        assert_eq!(writer.send([1; 4], owner(1), |_| true), Sent::Busy);
        assert_eq!(writer.send([1; 4], owner(7), |_| true), Sent::Reentered);
        assert_eq!(reader.next(), Ok(None));
        assert_eq!(writer.send([2; 4], owner(1), |_| false), Sent::Sent);
        assert_eq!(reader.next(), Ok(Some([2; 4])));
    }

    #[test]
    fn an_impossible_tail_is_refused() {
        let (mut reader, writer) = channel();
        let tail = &writer.region.header().tail;
        for wrong in [u64::from(SLOTS) + 1, u64::MAX] {
            tail.store(wrong, Ordering::Relaxed);
            assert!(reader.next().is_err(), "{wrong}");
        }
    }

    #[test]
    fn threads_share_the_writing_end() {
        let (mut reader, writer) = channel();
        let mut next = [0_u64; 4];
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let writer = &writer;
                scope.spawn(move || {
                    for number in 0..5000 {
                        let request = [thread, number, 0, 0];
                        while writer.send(request, owner(thread), |_| true) != Sent::Sent {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            while next.iter().sum::<u64>() < 20_000 {
                if let Some([thread, number, ..]) = reader.next().expect("a sane tail") {
                    let index = usize::try_from(thread - 1).expect("one of four");
                    assert_eq!(number, next[index], "in order per thread");
                    next[index] += 1;
                }
            }
        });
        assert_eq!(reader.next(), Ok(None));
    }
}
