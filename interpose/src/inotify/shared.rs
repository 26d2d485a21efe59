//! What all processes that share an inotify instance must agree on: its watches (`watch_table.rs`), and
//! which of them serves it. It lies in memory that fork shares and that ends with the last of them.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. Our own: `base` is the start of a mapping of `LEN` bytes that [`Shared::new`] has made and the drop
//!    of this one value takes away. The kernel aligns it to a page and fills it with zeros.
//! 2. Our own: the mapping is a [`Header`] at its start and `MAX_ENTRIES` of [`Entry`] from
//!    `ENTRIES_OFFSET` on, which is a multiple of their alignment; `LEN` is the end of the last one.
//! 3. Our own: every field of both is an atomic integer, of which any bytes are a value; this process
//!    and the children that share the memory access it through these atomics alone.
#![expect(unsafe_code, reason = "lays atomics over mapped memory")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::inotify::event::{Head, IN_ACCESS};
use crate::process;

const ENTRIES_OFFSET: usize = 4096;
pub(super) const MAX_ENTRIES: u32 = 1 << 20;
const FIRST_ENTRIES: u32 = 128;
const LEN: usize = ENTRIES_OFFSET + MAX_ENTRIES as usize * size_of::<Entry>();

#[repr(C)]
pub(super) struct Header {
    /// The thread that changes the table; 0 is none.
    pub(super) lock: AtomicU64,
    /// Odd while the table is being rebuilt.
    pub(super) version: AtomicU32,
    /// Entries in use as a power of two, and how many of them are not empty.
    pub(super) entries: AtomicU32,
    pub(super) used: AtomicU32,
    /// Which queue serves the instance; a process that has an older one delivers nothing.
    generation: AtomicU32,
    /// The process that made that queue.
    maker: AtomicU32,
    /// Whether the program is to get an overflow: it may have missed something.
    overflow: AtomicU32,
    /// Whether a new daemon was noticed, and something of the one before is still unread.
    restart_due: AtomicU32,
    /// The hidden watches in the program's instance; 0 is none.
    bell: AtomicI32,
    old_bell: AtomicI32,
    restart: AtomicI32,
    /// How many hidden watches the instance has had.
    hidden: AtomicI32,
    /// Processes that have the instance.
    holders: [AtomicU32; HOLDERS],
}

const HOLDERS: usize = 16;

#[repr(C)]
pub(super) struct Entry {
    pub(super) wd: AtomicU32,
    pub(super) mask: AtomicU32,
    pub(super) st_dev: AtomicU64,
    pub(super) st_ino: AtomicU64,
}

const _: () = {
    assert!(size_of::<Header>() <= ENTRIES_OFFSET);
    assert!(size_of::<Entry>() == 24 && ENTRIES_OFFSET.is_multiple_of(align_of::<Entry>()));
};

/// A hidden watch that an event may come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HiddenWatch {
    Bell,
    Restart,
    /// One that is over.
    Earlier,
}

/// Hidden watches have this number or a higher one, where the kernel can be told the next number. A program
/// does not get that far: it would have to add two billion watches.
pub(crate) const FIRST_HIDDEN: i32 = 0x7FF0_0000;

/// The shared memory.
#[derive(Debug)]
pub(crate) struct Shared {
    base: NonNull<u8>,
}

// SAFETY: 1 and 3: the mapping belongs to no thread, and munmap(2) may be called by any.
unsafe impl Send for Shared {}
// SAFETY: 3: what a shared reference reaches is atomic.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps address space for more than a million watches, of which only the touched pages are memory.
    pub(crate) fn new() -> Option<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: the address is null, so the kernel chooses one where nothing is mapped: no memory that
        // anything refers to is replaced.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), LEN, prot, flags) }.ok()?;
        let shared = Self {
            base: NonNull::new(base.cast())?,
        };
        shared
            .header()
            .entries
            .store(FIRST_ENTRIES, Ordering::Relaxed);
        shared.join();
        Some(shared)
    }

    pub(super) fn header(&self) -> &Header {
        // SAFETY: 1, 2 and 3: aligned, inside the mapping, a value, and only written by atomics; mapped as
        // long as `self`, which the result borrows.
        unsafe { self.base.cast::<Header>().as_ref() }
    }

    pub(super) fn entry(&self, index: u32) -> &Entry {
        let index = (index & (MAX_ENTRIES - 1)) as usize;
        // SAFETY: 1 and 2: the mask keeps `index` below `MAX_ENTRIES`, so the offset is below `LEN`, which
        // is less than `isize::MAX`.
        let at = unsafe { self.base.add(ENTRIES_OFFSET + index * size_of::<Entry>()) };
        // SAFETY: 1, 2 and 3: as for the header: aligned, inside the mapping, a value, only written by
        // atomics, and mapped as long as `self`.
        unsafe { at.cast::<Entry>().as_ref() }
    }

    // The processes that have the instance.

    /// Notes that this process has the instance.
    pub(crate) fn join(&self) {
        let me = process::owner();
        let free = |it: &&AtomicU32| {
            let holder = it.load(Ordering::Relaxed);
            holder == 0 || !process::is_process_alive(holder)
        };
        if let Some(place) = self.header().holders.iter().find(free) {
            place.store(me, Ordering::Relaxed);
        }
    }

    /// Notes that this process has the instance no more. Returns whether no other process has it.
    pub(crate) fn leave(&self) -> bool {
        let me = process::owner();
        let mut is_last = true;
        for place in &self.header().holders {
            let holder = place.load(Ordering::Relaxed);
            if holder == me {
                place.store(0, Ordering::Relaxed);
            } else if holder != 0 && process::is_process_alive(holder) {
                is_last = false;
            }
        }
        is_last
    }

    /// Returns whether the table has or had a watch.
    pub(crate) fn has_had_watches(&self) -> bool {
        self.header().used.load(Ordering::Relaxed) > 0
    }

    /// Returns whether no process has the instance, this one included.
    pub(crate) fn is_abandoned(&self) -> bool {
        let mut holders = self.header().holders.iter();
        holders.all(|place| {
            let holder = place.load(Ordering::Relaxed);
            holder == 0 || !process::is_process_alive(holder)
        })
    }

    /// Returns the number of the queue in force.
    pub(crate) fn generation(&self) -> u32 {
        // Acquire: pairs with `renew`. A process that finds its queue replaced sees what was done before that.
        self.header().generation.load(Ordering::Acquire)
    }

    /// Returns whether the process that has the queue in force has ended.
    pub(crate) fn is_forsaken(&self) -> bool {
        let maker = self.header().maker.load(Ordering::Relaxed);
        maker != 0 && !process::is_process_alive(maker)
    }

    /// Puts a new queue of this process in force and returns its number.
    pub(crate) fn renew(&self) -> u32 {
        self.header()
            .maker
            .store(process::owner(), Ordering::Relaxed);
        // AcqRel: pairs with `generation`, and with the process that had the queue before.
        self.header().generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Sets whether the program is to get an overflow: it may have missed something.
    pub(crate) fn set_overflow(&self, is_set: bool) {
        // Release: the thread that delivers it sees the watches as they were made anew.
        self.header()
            .overflow
            .store(u32::from(is_set), Ordering::Release);
    }

    /// Sets whether the instance still has to get a queue of a new daemon.
    pub(crate) fn set_restart_due(&self, is_due: bool) {
        // Relaxed: whoever finds it looks at the daemon itself.
        self.header()
            .restart_due
            .store(u32::from(is_due), Ordering::Relaxed);
    }

    pub(crate) fn is_restart_due(&self) -> bool {
        self.header().restart_due.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn has_overflow(&self) -> bool {
        // Acquire: pairs with `set_overflow`.
        self.header().overflow.load(Ordering::Acquire) != 0
    }

    // The hidden watches.

    pub(crate) fn set_bell(&self, wd: i32) {
        let header = self.header();
        let old = header.bell.swap(wd, Ordering::Relaxed);
        header.old_bell.store(old, Ordering::Relaxed);
    }

    pub(crate) fn bell(&self) -> i32 {
        self.header().bell.load(Ordering::Relaxed)
    }

    pub(crate) fn set_restart(&self, wd: i32) {
        self.header().restart.store(wd, Ordering::Relaxed);
    }

    pub(crate) fn has_restart(&self) -> bool {
        self.header().restart.load(Ordering::Relaxed) != 0
    }

    /// Leaves the hidden watch for a restart to the program, which watches the same and got the same wd.
    pub(crate) fn release_restart(&self, wd: i32) {
        let restart = &self.header().restart;
        let _ = restart.compare_exchange(wd, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Returns the number for the next hidden watch, from the highest down.
    pub(crate) fn next_hidden(&self) -> i32 {
        const RANGE: i32 = i32::MAX - FIRST_HIDDEN;
        let used = self.header().hidden.fetch_add(1, Ordering::Relaxed);
        i32::MAX - 1 - used.rem_euclid(RANGE)
    }

    /// Returns which hidden watch an event is of.
    pub(crate) fn hidden(&self, head: Head) -> Option<HiddenWatch> {
        let header = self.header();
        let is = |word: &AtomicI32| head.wd > 0 && word.load(Ordering::Relaxed) == head.wd;
        let is_earlier = head.wd >= FIRST_HIDDEN;
        if is(&header.bell) || is(&header.old_bell) || is_earlier && head.mask & IN_ACCESS != 0 {
            Some(HiddenWatch::Bell)
        } else if is(&header.restart) {
            Some(HiddenWatch::Restart)
        } else if is_earlier {
            Some(HiddenWatch::Earlier)
        } else {
            None
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: 1: this very mapping, with its own length; references to it borrow `self`, which is
        // being dropped, so there are none.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), LEN) };
    }
}
