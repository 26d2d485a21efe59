//! The locks and atomics of the event bus, so that its tests can compile it over others.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
pub(crate) use std::thread_local;

pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
}
