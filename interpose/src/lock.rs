//! A lock for short work, which a signal handler may find held by the thread it interrupted, and a
//! child of fork by a thread that does not exist there.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. Our own: a [`Held`] is only made by [`Lock::lock`], after `holder` went from `FREE` to this thread,
//!    and it sets it back when it is dropped. No two threads of a process have one name
//!    ([`process::this_thread`]), and a thread that is inside already gets no second one, so there is
//!    never more than one `Held` of a lock.
//! 2. Our own: [`Lock::break_open`] is called in a child of fork only, by the one thread it has, outside
//!    of any work under the lock. The `Held` of before belongs to a thread that is not in the child.
//! 3. Our own: Acquire and Release on `holder` order the accesses of one holder before those of the next.
#![expect(unsafe_code, reason = "lends out what the lock protects")]

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::process;

/// A value, and the thread that works on it.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    holder: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: 1, 2 and 3: the value is reached only through the one `Held`, so a shared `Lock` lends it to
// one thread after the other; `T: Send` allows it to be used from each.
unsafe impl<T: Send> Sync for Lock<T> {}

const FREE: u64 = 0;

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            holder: AtomicU64::new(FREE),
            value: UnsafeCell::new(value),
        }
    }

    /// Runs `work` alone. Returns `None` when this thread is inside already: it is in a signal handler.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.lock().map(|mut held| work(&mut held))
    }

    /// Takes the lock. Returns `None` when this thread is inside already: it is in a signal handler.
    pub(crate) fn lock(&self) -> Option<Held<'_, T>> {
        let me = process::this_thread().get();
        let mut rounds = 0_u32;
        loop {
            // Acquire: pairs with the Release in `Held`; what the last holder did is seen.
            match self
                .holder
                .compare_exchange_weak(FREE, me, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Some(Held(self)),
                Err(holder) if holder == me => return None,
                Err(_) => yield_or_sleep(rounds),
            }
            rounds = rounds.saturating_add(1);
        }
    }

    /// Frees the lock in a child of fork, where the thread that held it does not exist.
    pub(crate) fn break_open(&self) {
        self.holder.store(FREE, Ordering::Relaxed);
    }
}

/// The held lock. Frees it on drop, also when the work panics.
#[derive(Debug)]
pub(crate) struct Held<'a, T>(&'a Lock<T>);

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: 1 and 2: `self` is the only `Held`, so nobody writes while `self` is borrowed; the value
        // lives as long as the lock, which `self` borrows.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: 1 and 2: `self` is the only `Held` and borrowed alone, so there is no other reference;
        // the value lives as long as the lock, which `self` borrows.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.0.holder.store(FREE, Ordering::Release);
    }
}

/// Lets the thread run that this one waits for, and sleeps after some `rounds`, so that a thread of lower
/// priority, or one that waits for the daemon, is not kept from its processor.
pub(crate) fn yield_or_sleep(rounds: u32) {
    const YIELDS: u32 = 32;
    if rounds < YIELDS {
        rustix::thread::sched_yield();
    } else {
        let moment = rustix::thread::Timespec {
            tv_sec: 0,
            tv_nsec: 50_000,
        };
        // A signal ends it early, which does no harm.
        let _ = rustix::thread::nanosleep(&moment);
    }
}

#[cfg(test)]
mod tests {
    use super::Lock;

    #[test]
    fn one_thread_at_a_time_and_never_twice_the_same() {
        let lock = Lock::new(0_u32);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        lock.with(|value| *value += 1);
                    }
                });
            }
        });
        assert_eq!(lock.with(|value| *value), Some(4000));
        assert_eq!(lock.with(|_| lock.with(|_| ())), Some(None));
    }
}
