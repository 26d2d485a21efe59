//! Ends what takes long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Asks work that is under way to end. The clones are one.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    until: Option<Instant>,
}

/// The work was asked to end, or took too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped;

impl Stop {
    /// Also ends what takes longer than this.
    pub fn after(at_most: Duration) -> Self {
        Self {
            asked: Arc::default(),
            until: Instant::now().checked_add(at_most),
        }
    }

    /// Asks.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// What asks when it is set to true, as by the handler of a signal.
    pub fn flag(&self) -> &Arc<AtomicBool> {
        &self.asked
    }

    pub(crate) fn check(&self) -> Result<(), Stopped> {
        let is_late = || self.until.is_some_and(|until| Instant::now() >= until);
        if self.asked.load(Ordering::Relaxed) || is_late() {
            return Err(Stopped);
        }
        Ok(())
    }
}
