//! What all processes that share an inotify instance must agree on: its watches, and who speaks for
//! it. In memory that fork shares and that ends with the last of them.
//!
//! Lookups take no lock, because read(2) may be called in a signal handler; only growing the table
//! makes them wait, and that is seen by a counter that is odd meanwhile.
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
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::inotify::event::IN_IGNORED;
use crate::{lock, process};

const IN_ALL: u32 = 0xfff;
const IN_EXCL_UNLINK: u32 = 0x0400_0000;
const IN_MASK_ADD: u32 = 0x2000_0000;
const IN_ONESHOT: u32 = 0x8000_0000;

/// In a stored mask, where the kernel allows no such bit: the program was told that the watch is
/// gone, and the kernel will say so once more.
const END_DELIVERED: u32 = IN_IGNORED;

const ENTRIES_OFFSET: usize = 4096;
const MAX_ENTRIES: u32 = 1 << 20;
const FIRST_ENTRIES: u32 = 128;
const LEN: usize = ENTRIES_OFFSET + MAX_ENTRIES as usize * size_of::<Entry>();

#[repr(C)]
struct Header {
    /// The thread that changes the table.
    lock: AtomicU64,
    /// Odd while the table is being rebuilt.
    version: AtomicU32,
    /// Entries in use as a power of two, and how many of them are not empty.
    entries: AtomicU32,
    used: AtomicU32,
    /// Which queue serves the instance; a process that has an older one is silent.
    generation: AtomicU32,
    /// Whether the program is to be told that it may have missed something.
    overflow: AtomicU32,
    /// Watches of ours in the program's instance: 0 is none.
    bell: AtomicI32,
    old_bell: AtomicI32,
    directory: AtomicI32,
    /// Processes that have the instance.
    holders: [AtomicU32; HOLDERS],
}

const HOLDERS: usize = 16;

#[repr(C)]
struct Entry {
    wd: AtomicU32,
    mask: AtomicU32,
    st_dev: AtomicU64,
    st_ino: AtomicU64,
}

const EMPTY: u32 = 0;
const REMOVED: u32 = u32::MAX;

const _: () = {
    assert!(size_of::<Header>() <= ENTRIES_OFFSET);
    assert!(size_of::<Entry>() == 24);
};

/// A watch on an AgentFS object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Watch {
    pub(crate) wd: u32,
    /// The whole mask in force.
    pub(crate) mask: u32,
    pub(crate) st_dev: u64,
    pub(crate) st_ino: u64,
}

/// What is known of a wd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WatchState {
    /// No watch on AgentFS has it.
    Unwatched,
    /// A watch.
    Live,
    /// The program was told of its end already.
    EndDelivered,
}

/// Which of our own watches an event comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HiddenWatch {
    Bell,
    Directory,
}

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
    /// Address space for more than a million watches, of which only the touched pages are memory.
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

    fn header(&self) -> &Header {
        // SAFETY: 1, 2 and 3: aligned, inside the mapping, a value, and only written by atomics; mapped as
        // long as `self`, which the result borrows.
        unsafe { self.base.cast::<Header>().as_ref() }
    }

    fn entry(&self, index: u32) -> &Entry {
        let index = (index & (MAX_ENTRIES - 1)) as usize;
        // SAFETY: 1 and 2: the mask keeps `index` below `MAX_ENTRIES`, so the offset is below `LEN`, which
        // is less than `isize::MAX`.
        let at = unsafe { self.base.add(ENTRIES_OFFSET + index * size_of::<Entry>()) };
        // SAFETY: 1, 2 and 3: as for the header: aligned, inside the mapping, a value, only written by
        // atomics, and mapped as long as `self`.
        unsafe { at.cast::<Entry>().as_ref() }
    }

    // Who has the instance.

    /// This process has the instance.
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

    /// This process has it no more. Whether nobody else has it.
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

    /// The number of the queue in force.
    pub(crate) fn generation(&self) -> u32 {
        // Acquire: pairs with `renew`. Who finds its queue replaced sees what was done before that.
        self.header().generation.load(Ordering::Acquire)
    }

    /// Puts a new queue in force and says its number.
    pub(crate) fn renew(&self) -> u32 {
        // AcqRel: pairs with `generation`, and with the process that had the queue before.
        self.header().generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The program is to be told that it may have missed something.
    pub(crate) fn set_overflow(&self, is_set: bool) {
        // Release: who tells it sees the watches as they were made anew.
        self.header()
            .overflow
            .store(u32::from(is_set), Ordering::Release);
    }

    pub(crate) fn has_overflow(&self) -> bool {
        // Acquire: pairs with `set_overflow`.
        self.header().overflow.load(Ordering::Acquire) != 0
    }

    // Our own watches.

    pub(crate) fn set_bell(&self, wd: i32) {
        let header = self.header();
        let old = header.bell.swap(wd, Ordering::Relaxed);
        header.old_bell.store(old, Ordering::Relaxed);
    }

    pub(crate) fn bell(&self) -> i32 {
        self.header().bell.load(Ordering::Relaxed)
    }

    pub(crate) fn set_directory(&self, wd: i32) {
        self.header().directory.store(wd, Ordering::Relaxed);
    }

    /// The program watches what we watch, and got the same wd: it is the program's now.
    pub(crate) fn release_directory(&self, wd: i32) {
        let directory = &self.header().directory;
        let _ = directory.compare_exchange(wd, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn hidden(&self, wd: i32) -> Option<HiddenWatch> {
        let header = self.header();
        let is = |word: &AtomicI32| wd > 0 && word.load(Ordering::Relaxed) == wd;
        if is(&header.bell) || is(&header.old_bell) {
            Some(HiddenWatch::Bell)
        } else if is(&header.directory) {
            Some(HiddenWatch::Directory)
        } else {
            None
        }
    }

    // The table.

    /// What is known of a wd. When the table is being rebuilt for longer than it takes, or by a
    /// process that died: that it lives.
    pub(crate) fn watch_state(&self, wd: i32) -> WatchState {
        const PATIENCE: u32 = 10_000;
        let Ok(wd) = u32::try_from(wd) else {
            return WatchState::Unwatched;
        };
        for _ in 0..PATIENCE {
            // Acquire: pairs with the end of a rebuild.
            let version = self.header().version.load(Ordering::Acquire);
            if version.is_multiple_of(2) {
                let state = match self.find(wd) {
                    None => WatchState::Unwatched,
                    Some(entry) if entry.mask.load(Ordering::Relaxed) & END_DELIVERED != 0 => {
                        WatchState::EndDelivered
                    }
                    Some(_) => WatchState::Live,
                };
                fence(Ordering::Acquire);
                if self.header().version.load(Ordering::Relaxed) == version {
                    return state;
                }
            }
            rustix::thread::sched_yield();
        }
        WatchState::Live
    }

    fn find(&self, wd: u32) -> Option<&Entry> {
        let entries = self.header().entries.load(Ordering::Relaxed);
        for probe in 0..entries {
            let entry = self.entry(wd.wrapping_add(probe) & (entries - 1));
            // Acquire: pairs with the store in `put`.
            match entry.wd.load(Ordering::Acquire) {
                EMPTY => return None,
                found if found == wd => return Some(entry),
                _ => {}
            }
        }
        None
    }

    /// Runs `work` while nobody else changes the table. `None` when this very thread does already, or
    /// another process was stopped while it did.
    pub(crate) fn locked<R>(&self, work: impl FnOnce(&Locked<'_>) -> R) -> Option<R> {
        const PATIENCE: u32 = 10_000;
        let me = process::this_thread();
        let lock = &self.header().lock;
        let (mut from, mut rounds) = (0, 0);
        // Acquire, and Release below: what the last holder did to the table is seen.
        while let Err(held) =
            lock.compare_exchange(from, me.get(), Ordering::Acquire, Ordering::Relaxed)
        {
            let holder = std::num::NonZeroU64::new(held).map(agentfs_ring::OwnerId::new);
            if holder == Some(me) || rounds == PATIENCE {
                return None;
            }
            let is_dead = holder.is_some_and(|it| !process::is_owner_alive(it));
            from = if is_dead { held } else { 0 };
            lock::yield_or_sleep(rounds);
            rounds += 1;
        }
        let result = work(&Locked(self));
        let _ = lock.compare_exchange(me.get(), 0, Ordering::Release, Ordering::Relaxed);
        Some(result)
    }

    /// Marks a watch as one of whose end the program was told; the kernel will tell it too.
    pub(crate) fn mark_end_delivered(&self, wd: i32) {
        if let Some(entry) = u32::try_from(wd).ok().and_then(|wd| self.find(wd)) {
            entry.mask.fetch_or(END_DELIVERED, Ordering::Relaxed);
        }
    }

    /// Forgets a watch.
    pub(crate) fn forget(&self, wd: i32) {
        if let Some(entry) = u32::try_from(wd).ok().and_then(|wd| self.find(wd)) {
            // Release: as in `put`, after whoever wrote the rest.
            entry.wd.store(REMOVED, Ordering::Release);
        }
    }

    /// Every watch.
    pub(crate) fn watches(&self) -> Vec<Watch> {
        let entries = self.header().entries.load(Ordering::Relaxed);
        (0..entries)
            .map(|index| {
                let entry = self.entry(index);
                Watch {
                    // Acquire: pairs with the store in `put`.
                    wd: entry.wd.load(Ordering::Acquire),
                    mask: entry.mask.load(Ordering::Relaxed),
                    st_dev: entry.st_dev.load(Ordering::Relaxed),
                    st_ino: entry.st_ino.load(Ordering::Relaxed),
                }
            })
            .filter(|it| it.wd != EMPTY && it.wd != REMOVED && it.mask & END_DELIVERED == 0)
            .collect()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: 1: this very mapping, with its own length; references to it borrow `self`, which is
        // being dropped, so there are none.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), LEN) };
    }
}

/// The right to change the table.
#[derive(Debug)]
pub(crate) struct Locked<'a>(&'a Shared);

impl Locked<'_> {
    /// Notes a watch as `inotify_add_watch` was asked for it, and returns it with the mask that is in
    /// force now. `None` when the table is full.
    pub(crate) fn set(&self, wanted: Watch) -> Option<Watch> {
        let bits = wanted.mask & (IN_ALL | IN_EXCL_UNLINK | IN_ONESHOT);
        if let Some(entry) = self.0.find(wanted.wd) {
            let old = entry.mask.load(Ordering::Relaxed);
            let kept = if wanted.mask & IN_MASK_ADD != 0 {
                old & !END_DELIVERED
            } else {
                0
            };
            let mask = kept | bits;
            entry.mask.store(mask, Ordering::Relaxed);
            entry.st_dev.store(wanted.st_dev, Ordering::Relaxed);
            entry.st_ino.store(wanted.st_ino, Ordering::Relaxed);
            return Some(Watch { mask, ..wanted });
        }
        let watch = Watch {
            mask: bits,
            ..wanted
        };
        let header = self.0.header();
        let entries = header.entries.load(Ordering::Relaxed);
        if header.used.load(Ordering::Relaxed) >= entries / 4 * 3 {
            self.rebuild()?;
        }
        self.put(watch);
        Some(watch)
    }

    fn put(&self, watch: Watch) {
        let header = self.0.header();
        let entries = header.entries.load(Ordering::Relaxed);
        let free = (0..entries)
            .map(|probe| self.0.entry(watch.wd.wrapping_add(probe) & (entries - 1)))
            .find(|entry| entry.wd.load(Ordering::Relaxed) == EMPTY);
        if let Some(entry) = free {
            entry.mask.store(watch.mask, Ordering::Relaxed);
            entry.st_dev.store(watch.st_dev, Ordering::Relaxed);
            entry.st_ino.store(watch.st_ino, Ordering::Relaxed);
            // Release: who finds the wd finds the rest.
            entry.wd.store(watch.wd, Ordering::Release);
            header.used.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Drops what was removed, and doubles the table when it is still half full.
    fn rebuild(&self) -> Option<()> {
        let shared = self.0;
        let header = shared.header();
        let entries = header.entries.load(Ordering::Relaxed);
        let ended = (0..entries).filter_map(|index| {
            let entry = shared.entry(index);
            let (wd, mask) = (
                entry.wd.load(Ordering::Relaxed),
                entry.mask.load(Ordering::Relaxed),
            );
            let is_end_delivered = wd != EMPTY && wd != REMOVED && mask & END_DELIVERED != 0;
            is_end_delivered.then_some(Watch {
                wd,
                mask,
                st_dev: 0,
                st_ino: 0,
            })
        });
        let mut keep: Vec<Watch> = ended.collect();
        keep.extend(shared.watches());
        let is_half_full = keep.len() >= (entries / 2) as usize;
        let new = if is_half_full {
            entries.checked_mul(2).filter(|it| *it <= MAX_ENTRIES)?
        } else {
            entries
        };
        // Odd: who looks meanwhile looks again. The fence keeps the stores below after this one.
        header.version.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        for index in 0..new {
            shared.entry(index).wd.store(EMPTY, Ordering::Relaxed);
        }
        header.entries.store(new, Ordering::Relaxed);
        header.used.store(0, Ordering::Relaxed);
        for watch in keep {
            self.put(watch);
        }
        // Release: pairs with the look in `watch_state`; who sees the even number sees the whole table.
        header.version.fetch_add(1, Ordering::Release);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Set { wd: u32, mask: u32 },
        Forget { wd: u32 },
        EndDelivered { wd: u32 },
    }

    fn op() -> impl Strategy<Value = Op> {
        let wd = prop_oneof![1..600_u32, 0x7fff_ff00..0x7fff_ffff_u32];
        prop_oneof![
            4 => (wd.clone(), any::<u32>()).prop_map(|(wd, mask)| Op::Set { wd, mask }),
            2 => wd.clone().prop_map(|wd| Op::Forget { wd }),
            1 => wd.prop_map(|wd| Op::EndDelivered { wd }),
        ]
    }

    proptest! {
        #[test]
        fn the_table_is_a_map(ops in proptest::collection::vec(op(), 0..1500)) {
            let shared = Shared::new().expect("memory");
            let mut model: BTreeMap<u32, (u32, bool)> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Set { wd, mask } => {
                        let watch = Watch { wd, mask, st_dev: 1, st_ino: u64::from(wd) };
                        let found = shared.locked(|table| table.set(watch)).flatten();
                        let bits = mask & (IN_ALL | IN_EXCL_UNLINK | IN_ONESHOT);
                        let old = model.get(&wd).map_or(0, |(mask, _)| *mask);
                        let mask = if mask & IN_MASK_ADD != 0 { old | bits } else { bits };
                        model.insert(wd, (mask, false));
                        prop_assert_eq!(found.map(|it| it.mask), Some(mask));
                    }
                    Op::Forget { wd } => {
                        shared.forget(wd.cast_signed());
                        model.remove(&wd);
                    }
                    Op::EndDelivered { wd } => {
                        shared.mark_end_delivered(wd.cast_signed());
                        if let Some((_, ended)) = model.get_mut(&wd) {
                            *ended = true;
                        }
                    }
                }
            }
            for wd in (1..600).chain(0x7fff_ff00..0x7fff_ffff) {
                let expected = match model.get(&wd) {
                    None => WatchState::Unwatched,
                    Some((_, true)) => WatchState::EndDelivered,
                    Some((_, false)) => WatchState::Live,
                };
                prop_assert_eq!(shared.watch_state(wd.cast_signed()), expected);
            }
            let mut found: Vec<_> = shared.watches().iter().map(|it| (it.wd, it.mask)).collect();
            found.sort_unstable();
            let live: Vec<_> = model.iter().filter(|(_, it)| !it.1).map(|(wd, it)| (*wd, it.0)).collect();
            prop_assert_eq!(found, live);
        }
    }
}
