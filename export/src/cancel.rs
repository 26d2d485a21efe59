//! Cancels work that takes long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Cancels work that is under way. All clones are one token.
#[derive(Clone, Debug, Default)]
pub struct CancelToken {
    is_cancelled: Arc<AtomicBool>,
    until: Option<Instant>,
}

/// The work was cancelled, or took too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cancelled;

impl CancelToken {
    /// Returns a token that also cancels work which takes longer than this.
    #[must_use]
    pub fn after(at_most: Duration) -> Self {
        Self {
            is_cancelled: Arc::default(),
            until: Instant::now().checked_add(at_most),
        }
    }

    /// Cancels the work, which ends soon after.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Returns the flag that cancels the work when it is set, as by the handler of a signal.
    #[must_use]
    pub fn flag(&self) -> &Arc<AtomicBool> {
        &self.is_cancelled
    }

    /// Fails when the work is to end.
    pub(crate) fn check(&self) -> Result<(), Cancelled> {
        let is_late = || self.until.is_some_and(|until| Instant::now() >= until);
        if self.is_cancelled.load(Ordering::Relaxed) || is_late() {
            return Err(Cancelled);
        }
        Ok(())
    }
}
