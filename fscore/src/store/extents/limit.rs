//! How much the content of files may take on the disk.

use super::{Extents, Freeing};
use crate::model::errno::{Errno, Result};
use crate::sync::atomic::{AtomicU64, Ordering};

/// What is left of the limit for operations that free space and need some for it: a page that is zeroed
/// in part, say.
const SPARE: u64 = 1 << 20;

/// How many bytes extents may take. It is a bound for what follows, and orders nothing: Relaxed.
#[derive(Debug)]
pub(super) struct Limit(AtomicU64);

impl Default for Limit {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Limit {
    /// Checks that so many more bytes fit.
    pub(super) fn check(&self, used: u64, more: u64) -> Result<()> {
        let most = self.0.load(Ordering::Relaxed);
        if more > most.saturating_sub(used) {
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }
}

impl Extents {
    /// Sets how many bytes extents may take from now on.
    pub(crate) fn set_limit(&self, most: u64) {
        self.limit.0.store(most, Ordering::Relaxed);
    }

    /// Checks that an operation may begin that need not free anything.
    pub(crate) fn check_limit(&self) -> Result<()> {
        if self.limit.0.load(Ordering::Relaxed) == u64::MAX {
            return Ok(());
        }
        self.limit.check(self.free.lock().used, SPARE)
    }

    /// Returns how many bytes of the disk extents take, also those that are free and not given back.
    pub(crate) fn on_disk(&self) -> u64 {
        let free = self.free.lock();
        free.used + free.ranges.unpunched()
    }

    /// Returns whether a sync would free something.
    pub(crate) fn has_waiting(&self) -> bool {
        match &self.free.lock().freeing {
            Freeing::Later { new, old } => !new.is_empty() || !old.is_empty(),
            Freeing::AtOnce | Freeing::Never => false,
        }
    }
}
