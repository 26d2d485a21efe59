//! The world of real processes: descriptors for doorbells and lifelines, shared memory for the word
//! that stands for the filesystem and for the counters.
#![expect(
    unsafe_code,
    reason = "maps the counters and takes over inherited descriptors"
)]
#![expect(clippy::cast_ptr_alignment, reason = "mappings are page-aligned")]

use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU64, Ordering};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use agentfs_ring::doorbell::{self, BellKind, Ringer, Waiter};
use agentfs_ring::{Capacity, Consumer, OwnerId, Producer, create};
use memmap2::{MmapOptions, MmapRaw};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{Tally, Woken};

/// How many descriptors a consumer's process inherits: see [`World::consumer_fds`].
pub const FD_COUNT: usize = 5;

/// How long an end waits for the other before it calls a wake-up lost.
const DEADLINE: Duration = Duration::from_secs(20);

/// What both ends share beside the ring.
#[derive(Default)]
#[repr(C)]
struct Shared {
    file: AtomicU64,
    dead: AtomicU64,
    tally: Tally,
}

/// [`Shared`], mapped.
#[derive(Debug)]
pub struct SharedMemory(MmapRaw);

impl SharedMemory {
    fn map(fd: &OwnedFd) -> io::Result<Self> {
        Ok(Self(
            MmapOptions::new().len(size_of::<Shared>()).map_raw(fd)?,
        ))
    }

    fn get(&self) -> &Shared {
        // SAFETY: the mapping is page-aligned, as long as `Shared`, zeroed when made, and shared
        // only as atomics.
        unsafe { &*self.0.as_ptr().cast::<Shared>() }
    }

    /// Returns the counters of the run.
    #[must_use]
    pub fn counters(&self) -> &Tally {
        &self.get().tally
    }
}

/// One end's view. Dropping it is that end's exit.
#[derive(Debug)]
pub struct Side {
    ringers: Vec<Ringer>,
    waiter: Waiter,
    lifeline: OwnedFd,
    shared: SharedMemory,
    items: u64,
    owner: OwnerId,
    idle_since: Cell<(Instant, u64)>,
}

impl Side {
    fn new(
        ringers: Vec<Ringer>,
        waiter: Waiter,
        lifeline: OwnedFd,
        shared: &OwnedFd,
        (items, id): (u64, u64),
    ) -> io::Result<Self> {
        Ok(Self {
            ringers,
            waiter,
            lifeline,
            shared: SharedMemory::map(shared)?,
            items,
            owner: OwnerId::new(NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN)),
            idle_since: Cell::new((Instant::now(), 0)),
        })
    }

    /// Rings the other end's doorbell.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn ring(&self) {
        for ringer in &self.ringers {
            ringer.ring().expect("a doorbell to ring");
        }
    }

    /// Sleeps until this end's doorbell is rung, and clears it.
    ///
    /// # Panics
    /// When no end rings within the deadline: a wake-up was lost.
    #[must_use]
    pub fn wait(&self) -> Woken {
        let woken = self
            .waiter
            .wait(Some(self.lifeline.as_fd()), Some(DEADLINE));
        match woken.expect("a doorbell to wait for") {
            doorbell::Woken::Rung => {
                self.waiter.clear().expect("a doorbell to clear");
                Woken::Rung
            }
            doorbell::Woken::PeerGone => Woken::PeerGone,
            doorbell::Woken::TimedOut => panic!("lost wake-up"),
        }
    }

    /// Lets a moment pass in which there is nothing to do.
    ///
    /// # Panics
    /// When that goes on beyond the deadline.
    pub fn idle(&self) {
        let (since, mut times) = self.idle_since.get();
        times += 1;
        if times.is_multiple_of(64) {
            std::thread::yield_now();
            assert!(since.elapsed() < 3 * DEADLINE, "nothing happens");
        }
        self.idle_since.set((since, times));
    }

    /// Lets another consumer try.
    ///
    /// # Panics
    /// When nothing happens until the deadline.
    pub fn give_way(&self) {
        self.idle();
    }

    /// Changes what stands for the filesystem, with no ordering of its own.
    pub fn change_file(&self, value: u64) {
        self.shared.get().file.store(value, Ordering::Relaxed);
    }

    /// Looks at what stands for the filesystem, with no ordering of its own.
    #[must_use]
    pub fn look_at_file(&self) -> u64 {
        self.shared.get().file.load(Ordering::Relaxed)
    }

    /// Notes that this consumer has died, as the kernel knows it of a process.
    pub fn die(&self) {
        let dead = &self.shared.get().dead;
        dead.store(self.owner.get(), Ordering::Release);
    }

    /// Returns whether this consumer has died.
    #[must_use]
    pub fn is_dead(&self, owner: OwnerId) -> bool {
        self.shared.get().dead.load(Ordering::Acquire) == owner.get()
    }

    /// Returns how often a consumer that shares its end tries its luck: until the work is done.
    #[must_use]
    pub fn tries(&self) -> u64 {
        u64::MAX
    }

    /// Returns how many records this run is about.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Returns the name of this consumer.
    #[must_use]
    pub fn owner(&self) -> OwnerId {
        self.owner
    }

    /// Returns the counters of the run.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        self.shared.counters()
    }

    /// Closes every descriptor of this end, as its process's exit would. What it counted stays.
    #[must_use]
    pub fn exit(self) -> SharedMemory {
        self.shared
    }
}

#[cfg(target_os = "linux")]
use doorbell::eventfd as bell;
#[cfg(target_os = "linux")]
const BELL: BellKind = BellKind::EventFd;

#[cfg(not(target_os = "linux"))]
use doorbell::pipe as bell;
#[cfg(not(target_os = "linux"))]
const BELL: BellKind = BellKind::Pipe;

/// Makes two connected sockets that no process inherits. That is set afterwards, because not every system can at
/// once; the caller starts no process meanwhile.
fn lifeline() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::empty();
    let ends = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    for end in [&ends.0, &ends.1] {
        fcntl_setfd(end, FdFlags::CLOEXEC)?;
    }
    Ok(ends)
}

/// A ring and the descriptors around it, before its ends go their ways.
#[derive(Debug)]
pub struct World {
    ring: OwnedFd,
    data: (Ringer, Waiter),
    refill: (Ringer, Waiter),
    lifeline: (OwnedFd, OwnedFd),
    shared: OwnedFd,
}

impl World {
    /// Makes a ring and all around it.
    ///
    /// # Errors
    /// When the system refuses memory or descriptors.
    pub fn new(capacity: Capacity) -> Result<(Self, Producer), Box<dyn std::error::Error>> {
        let (producer, ring) = create(capacity)?;
        let shared = tempfile::tempfile()?;
        shared.set_len(size_of::<Shared>() as u64)?;
        let world = Self {
            ring,
            data: bell()?,
            refill: bell()?,
            lifeline: lifeline()?,
            shared: shared.into(),
        };
        Ok((world, producer))
    }

    /// Returns copies, without close-on-exec, of what a consumer's process needs, in the order in which
    /// [`consumer`](Self::consumer) takes them.
    ///
    /// # Errors
    /// When the system refuses descriptors.
    pub fn consumer_fds(&self) -> io::Result<[OwnedFd; FD_COUNT]> {
        let copy = |fd: &dyn AsFd| rustix::io::dup(fd.as_fd()).map_err(io::Error::from);
        Ok([
            copy(&self.ring)?,
            copy(&self.data.1)?,
            copy(&self.refill.0)?,
            copy(&self.lifeline.1)?,
            copy(&self.shared)?,
        ])
    }

    /// Returns the producer's side, in this process. The consumer's ends are closed here.
    ///
    /// # Errors
    /// When the system refuses memory.
    pub fn into_producer(self, items: u64) -> io::Result<Side> {
        let refill = self.refill.1;
        Side::new(
            vec![self.data.0],
            refill,
            self.lifeline.0,
            &self.shared,
            (items, u64::MAX),
        )
    }

    /// Returns a consumer's side, from the numbers of inherited descriptors.
    ///
    /// # Errors
    /// When they are not what [`consumer_fds`](Self::consumer_fds) gave.
    pub fn consumer(
        fds: [RawFd; FD_COUNT],
        items: u64,
        id: u64,
    ) -> Result<(Consumer, Side), Box<dyn std::error::Error>> {
        // SAFETY: the process was started with these descriptors for this purpose, and nothing else
        // in it knows their numbers.
        let own = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
        let [ring, data, refill, lifeline, shared] = fds.map(own);
        let consumer = Consumer::open(ring)?;
        let refill = Ringer::from_fd(refill, BELL);
        let data = Waiter::from_fd(data, BELL);
        let side = Side::new(vec![refill], data, lifeline, &shared, (items, id))?;
        Ok((consumer, side))
    }
}

impl World {
    /// Returns the numbers of descriptors, to be handed to a process on its command line.
    #[must_use]
    pub fn numbers(fds: &[OwnedFd; FD_COUNT]) -> Vec<String> {
        fds.iter().map(|fd| fd.as_raw_fd().to_string()).collect()
    }
}
