//! A lock for short work, which a signal handler may find held by the thread it interrupted, and a
//! child of fork by a thread that does not exist there.
#![expect(unsafe_code, reason = "lends out what the lock protects")]

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::process;

/// A value and who works on it.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    holder: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only by the thread that holds the lock, one at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

const FREE: u64 = 0;

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            holder: AtomicU64::new(FREE),
            value: UnsafeCell::new(value),
        }
    }

    /// Runs `work` alone. `None` when this thread is inside already: it is in a signal handler.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.lock().map(|mut held| work(&mut held))
    }

    /// Takes the lock. `None` when this thread is inside already: it is in a signal handler.
    pub(crate) fn lock(&self) -> Option<Held<'_, T>> {
        let me = process::this_thread().get();
        let mut rounds = 0_u32;
        loop {
            // Acquire and, in `Held`, Release: what the last holder did is seen.
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

    /// In a child of fork: whoever held it is not here.
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
        // SAFETY: this thread holds the lock, and is not inside already.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.0.holder.store(FREE, Ordering::Release);
    }
}

/// What a thread does that waits for another: lets it run, and after some `rounds` sleeps, so that one
/// of lower priority, or one that waits for the daemon, is not kept from its processor.
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
