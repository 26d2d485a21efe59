//! The watches on AgentFS of one inotify instance, in a hash table that all processes with the instance
//! share ([`Shared`]).
//!
//! A lookup takes no lock, because read(2) may be called in a signal handler. Only growing the table makes
//! lookups wait: they wait while a counter is odd.

use std::num::NonZeroU64;
use std::sync::atomic::{Ordering, fence};

use agentfs_ring::OwnerId;

use crate::inotify::event::IN_IGNORED;
use crate::inotify::shared::{Entry, MAX_ENTRIES, Shared};
use crate::{lock, process};

const IN_ALL: u32 = 0xfff;
const IN_EXCL_UNLINK: u32 = 0x0400_0000;
const IN_MASK_ADD: u32 = 0x2000_0000;
const IN_ONESHOT: u32 = 0x8000_0000;

/// A bit of a stored mask, which the kernel does not allow in one: the program has got the `IN_IGNORED` of
/// the watch, and the kernel will send another one.
const END_DELIVERED: u32 = IN_IGNORED;

const EMPTY: u32 = 0;
const REMOVED: u32 = u32::MAX;

/// A watch on an AgentFS object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Watch {
    pub(crate) wd: u32,
    /// The whole mask in force.
    pub(crate) mask: u32,
    pub(crate) st_dev: u64,
    pub(crate) st_ino: u64,
}

/// What the table says of a wd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WatchState {
    /// No watch on AgentFS has it.
    Unwatched,
    /// A watch on AgentFS has it.
    Live,
    /// A watch had it whose `IN_IGNORED` the program has got already.
    EndDelivered,
}

impl Shared {
    /// Returns the state of a wd. While another process rebuilds the table for longer than that takes, or
    /// after it died over it, every wd counts as live.
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

    /// Runs `work` while no other thread or process changes the table. Returns `None` when this very thread
    /// changes it already, or when another process was stopped while it did.
    pub(crate) fn locked<R>(&self, work: impl FnOnce(&Locked<'_>) -> R) -> Option<R> {
        const PATIENCE: u32 = 10_000;
        let me = process::this_thread();
        let lock = &self.header().lock;
        let (mut from, mut rounds) = (0, 0);
        // Acquire: pairs with the Release below; what the last holder did to the table is seen.
        while let Err(held) =
            lock.compare_exchange(from, me.get(), Ordering::Acquire, Ordering::Relaxed)
        {
            let holder = NonZeroU64::new(held).map(OwnerId::new);
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

    /// Marks a watch whose `IN_IGNORED` the program gets now; the kernel will send another one.
    pub(crate) fn mark_end_delivered(&self, wd: i32) {
        if let Some(entry) = u32::try_from(wd).ok().and_then(|wd| self.find(wd)) {
            entry.mask.fetch_or(END_DELIVERED, Ordering::Relaxed);
        }
    }

    /// Forgets a watch.
    pub(crate) fn forget(&self, wd: i32) {
        if let Some(entry) = u32::try_from(wd).ok().and_then(|wd| self.find(wd)) {
            // Release: as in `put`, after the stores of the rest.
            entry.wd.store(REMOVED, Ordering::Release);
        }
    }

    /// Returns every live watch.
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

/// The right to change the table.
#[derive(Debug)]
pub(crate) struct Locked<'a>(&'a Shared);

impl Locked<'_> {
    /// Notes a watch as `inotify_add_watch` was asked for it, and returns it with the mask that is in
    /// force now, or `None` when the table is full.
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
            // Release: whoever finds the wd finds the rest.
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
        // Odd: a lookup that runs now starts again. The fence keeps the stores below after this one.
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
        // Release: pairs with the Acquire in `watch_state`; a lookup that sees the even number sees the whole
        // table.
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
