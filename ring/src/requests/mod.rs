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

use core::fmt;

use crate::OwnerId;
use crate::ordering;
use crate::sync::Ordering;

#[cfg(not(loom))]
mod mapped;
#[cfg(not(loom))]
use mapped::Region;
#[cfg(not(loom))]
pub use mapped::{SLOTS, create};

#[cfg(loom)]
mod model;
#[cfg(loom)]
use model::Region;
#[cfg(loom)]
pub use model::in_process;

/// 64-bit words of a request.
pub const REQUEST_WORDS: usize = 4;

/// One request. The ring does not know what it says.
pub type Request = [u64; REQUEST_WORDS];

const UNLOCKED: u64 = 0;

/// The program's tail makes no sense: it is broken or hostile. End its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TailError {
    found: u64,
    head: u64,
    slots: u64,
}

impl fmt::Display for TailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { found, head, slots } = self;
        write!(
            f,
            "{found} requests are said to be sent, but {head} were read and {slots} fit: close the \
             session"
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

impl RequestReader {
    fn new(region: Region) -> Self {
        Self { region, head: 0 }
    }

    /// Returns whether there is something to read. It costs a fence and a load, which is cheap enough
    /// for every commit.
    ///
    /// # Staleness
    /// "Yes" stays true until the request is read; "no" may be wrong by the time it is returned. It
    /// does cover every request whose sending had returned before.
    ///
    /// # Examples
    /// First the change, then the look, so that whoever asked before the change is found:
    /// ```
    /// # use agentfs_ring::OwnerId;
    /// # use agentfs_ring::requests::{RequestWriter, Sent, create};
    /// # let (mut reader, fd) = create()?;
    /// # let writer = RequestWriter::open(fd)?;
    /// # let me = OwnerId::this_process();
    /// # let mut size = 0;
    /// # assert_eq!(writer.send([1, 2, 3, 4], me, |_| true), Sent::Sent);
    /// size += 1;
    /// assert!(reader.has_pending());
    /// # let _ = size;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    /// Not the other way round. A program may send its request after the look, see the old state, and
    /// be forgotten:
    /// ```
    /// # use agentfs_ring::OwnerId;
    /// # use agentfs_ring::requests::{RequestWriter, Sent, create};
    /// # let (mut reader, fd) = create()?;
    /// # let writer = RequestWriter::open(fd)?;
    /// # let me = OwnerId::this_process();
    /// # let mut size = 0;
    /// let asked = reader.has_pending(); // wrong: the look comes first
    /// assert_eq!(writer.send([1, 2, 3, 4], me, |_| true), Sent::Sent);
    /// size += 1;
    /// assert!(!asked); // and yet somebody wanted to hear of this change
    /// # let _ = size;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.observe_tail() != self.head
    }

    /// Notes how far the daemon has come with what the programs of this channel wait for. What the number
    /// means is up to the caller. It stays readable when the daemon is gone.
    pub fn set_delivered(&self, number: u64) {
        // Relaxed: it is read when this process has ended.
        self.region.delivered().store(number, Ordering::Relaxed);
    }

    /// Returns the number that was noted last. The program can write it too.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.region.delivered().load(Ordering::Relaxed)
    }

    fn observe_tail(&self) -> u64 {
        ordering::look_fence();
        self.region.tail().load(ordering::request_observe())
    }

    /// Returns the next request, or `None` when all were read. Its slot is free afterwards.
    ///
    /// # Errors
    /// [`TailError`] when the program claims to have sent more than fits, or less than was read.
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::OwnerId;
    /// # use agentfs_ring::requests::{RequestWriter, Sent, create};
    /// # let (mut reader, fd) = create()?;
    /// # let writer = RequestWriter::open(fd)?;
    /// # let me = OwnerId::this_process();
    /// assert_eq!(writer.send([1, 2, 3, 4], me, |_| true), Sent::Sent);
    /// assert_eq!(reader.next()?, Some([1, 2, 3, 4]));
    /// assert_eq!(reader.next()?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[expect(
        clippy::should_implement_trait,
        reason = "it fails, and may go on after None"
    )]
    pub fn next(&mut self) -> Result<Option<Request>, TailError> {
        let (found, head, slots) = (self.observe_tail(), self.head, self.region.slots());
        if found == head {
            return Ok(None);
        }
        if found.wrapping_sub(head) > slots {
            return Err(TailError { found, head, slots });
        }
        let request = self.region.read(head);
        self.head = head.wrapping_add(1);
        self.region
            .head()
            .store(self.head, ordering::request_free());
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
    fn new(region: Region) -> Self {
        Self { region }
    }

    /// Returns how far the daemon has come, as it has [noted](RequestReader::set_delivered); 0 if it never
    /// has.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.region.delivered().load(Ordering::Relaxed)
    }

    /// Sends a request. Never waits. `me` names the thread, and `is_alive` is asked about a thread
    /// that holds the lock: one that died while sending is passed over.
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::requests::SLOTS;
    /// # use agentfs_ring::OwnerId;
    /// # use agentfs_ring::requests::{RequestWriter, Sent, create};
    /// # let (mut reader, fd) = create()?;
    /// # let writer = RequestWriter::open(fd)?;
    /// # let me = OwnerId::this_process();
    /// for _ in 0..SLOTS {
    ///     assert_eq!(writer.send([0; 4], me, |_| true), Sent::Sent);
    /// }
    /// assert_eq!(writer.send([0; 4], me, |_| true), Sent::Full);
    /// reader.next()?;
    /// assert_eq!(writer.send([0; 4], me, |_| true), Sent::Sent);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send(
        &self,
        request: Request,
        me: OwnerId,
        is_alive: impl FnOnce(OwnerId) -> bool,
    ) -> Sent {
        let lock = self.region.lock();
        let take = |from: u64| {
            // Relaxed on failure: only the number is looked at.
            lock.compare_exchange(from, me.get(), ordering::request_lock(), Ordering::Relaxed)
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
        self.unlock(me);
        ordering::request_fence();
        sent
    }

    /// Gives the lock back. If another sender took it over, because its `is_alive` called this sender dead,
    /// the lock stays with that one.
    fn unlock(&self, me: OwnerId) {
        let lock = self.region.lock();
        let unlock = ordering::request_unlock();
        // Relaxed on failure: nothing is done then.
        let _ = lock.compare_exchange(me.get(), UNLOCKED, unlock, Ordering::Relaxed);
    }

    fn append(&self, request: Request) -> Sent {
        let region = &self.region;
        // Relaxed: only holders of the lock write it, and ORDERING[request_lock] follows the last.
        let tail = region.tail().load(Ordering::Relaxed);
        let head = region.head().load(ordering::request_reuse());
        if tail.wrapping_sub(head) >= region.slots() {
            return Sent::Full;
        }
        region.write(tail, request);
        region
            .tail()
            .store(tail.wrapping_add(1), ordering::request_publish());
        Sent::Sent
    }
}

#[cfg(all(test, not(loom)))]
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
        writer.region.lock().store(7, Ordering::Relaxed);
        assert_eq!(writer.send([1; 4], owner(1), |_| true), Sent::Busy);
        assert_eq!(writer.send([1; 4], owner(7), |_| true), Sent::Reentered);
        assert_eq!(reader.next(), Ok(None));
        assert_eq!(writer.send([2; 4], owner(1), |_| false), Sent::Sent);
        assert_eq!(reader.next(), Ok(Some([2; 4])));
    }

    #[test]
    fn a_lock_that_was_taken_over_is_not_given_back_by_the_one_before() {
        let (_reader, writer) = channel();
        writer.region.lock().store(7, Ordering::Relaxed);
        writer.unlock(owner(1));
        assert_eq!(writer.region.lock().load(Ordering::Relaxed), 7);
        writer.unlock(owner(7));
        assert_eq!(writer.region.lock().load(Ordering::Relaxed), UNLOCKED);
    }

    #[test]
    fn an_impossible_tail_is_refused() {
        let (mut reader, writer) = channel();
        let tail = writer.region.tail();
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
