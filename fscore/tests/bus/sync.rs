//! What `src/sync.rs` is in the crate: here over shuttle.

pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, RwLock};
pub(crate) use shuttle::thread_local;
pub(crate) use std::sync::PoisonError;

pub(crate) mod atomic {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
}
