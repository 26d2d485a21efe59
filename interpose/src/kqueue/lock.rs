//! A lock that a signal handler may find held by the thread it interrupted.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

thread_local! {
    /// Ranks of the locks this thread holds or is about to take, one bit each.
    static HELD: Cell<u8> = const { Cell::new(0) };
}

/// A mutex held for a moment only: never across a call that can wait for an event.
///
/// kevent(2) may be called from a signal handler. If the handler interrupted a thread inside this lock,
/// waiting would never end; [`lock`](Self::lock) says so instead.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    rank: u8,
    inner: Mutex<T>,
}

/// The table of queues.
pub(crate) const REGISTRY: u8 = 1;
/// The state of one queue.
pub(crate) const STATE: u8 = 2;
/// The right to speak to the daemon for one queue; taken before [`STATE`].
pub(crate) const SENDER: u8 = 4;

impl<T> Lock<T> {
    pub(crate) const fn new(rank: u8, value: T) -> Self {
        Self {
            rank,
            inner: Mutex::new(value),
        }
    }

    /// `None` when this thread is inside a lock of the same rank already.
    pub(crate) fn lock(&self) -> Option<Guard<'_, T>> {
        let held = HELD.get();
        if held & self.rank != 0 {
            return None;
        }
        let mark = Mark::set(self.rank);
        Some(Guard {
            inner: self.inner.lock().unwrap_or_else(PoisonError::into_inner),
            _mark: mark,
        })
    }
}

/// Says that this thread holds a lock, from before it is taken until after it is free.
#[derive(Debug)]
struct Mark(u8);

impl Mark {
    fn set(rank: u8) -> Self {
        HELD.set(HELD.get() | rank);
        Self(rank)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        HELD.set(HELD.get() & !self.0);
    }
}

/// A held lock. The fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Guard<'a, T> {
    inner: MutexGuard<'a, T>,
    _mark: Mark,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}
