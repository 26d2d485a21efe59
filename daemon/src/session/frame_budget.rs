//! How many frames a session may send.

use std::time::{Duration, Instant};

use crate::base::session_limits::SessionLimits;

/// Frames that a session may still send: a bucket that fills at the frame rate.
#[derive(Debug)]
pub(crate) struct FrameBudget {
    rate: f64,
    burst: f64,
    left: f64,
    filled_at: Instant,
}

impl FrameBudget {
    pub(crate) fn new(limits: &SessionLimits, now: Instant) -> Self {
        let burst = f64::from(limits.frame_burst.max(1));
        Self {
            rate: f64::from(limits.frame_rate.max(1)),
            burst,
            left: burst,
            filled_at: now,
        }
    }

    /// Takes one frame, or returns when there will be one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.left = (self.left + passed * self.rate).min(self.burst);
        self.filled_at = now;
        if self.left < 1.0 {
            let wait = Duration::from_secs_f64((1.0 - self.left) / self.rate);
            return Err(now + wait.max(Duration::from_millis(1)));
        }
        self.left -= 1.0;
        Ok(())
    }

    /// Takes frames for work that came by another way. The debt is at most that of a second.
    pub(crate) fn charge(&mut self, frames: u64) {
        // Exact: a channel has no more than some thousands.
        let frames = u32::try_from(frames).map_or(f64::INFINITY, f64::from);
        self.left = (self.left - frames).max(-self.rate);
    }

    /// Puts a frame back that was taken and not used.
    pub(crate) fn put_back(&mut self) {
        self.left += 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::{FrameBudget, SessionLimits};
    use std::time::{Duration, Instant};

    #[test]
    fn a_flood_gets_its_burst_and_then_the_rate() {
        let start = Instant::now();
        let limits = SessionLimits {
            frame_rate: 100,
            frame_burst: 5,
            ..SessionLimits::default()
        };
        let mut budget = FrameBudget::new(&limits, start);
        let at_once = (0..50).filter(|_| budget.take(start).is_ok()).count();
        assert_eq!(at_once, 5);
        let again = budget.take(start).unwrap_err();
        assert_eq!(again, start + Duration::from_millis(10));
        assert_eq!(budget.take(again), Ok(()));
        // What was spent otherwise counts, at most for a second.
        budget.charge(7);
        assert!(budget.take(again + Duration::from_millis(60)).is_err());
        assert_eq!(budget.take(again + Duration::from_millis(81)), Ok(()));
        budget.charge(u64::MAX);
        let second = again + Duration::from_millis(81 + 1000);
        assert!(budget.take(second).is_err());
        assert_eq!(budget.take(second + Duration::from_millis(20)), Ok(()));
        let later = start + Duration::from_secs(60);
        let after_a_pause = (0..50).filter(|_| budget.take(later).is_ok()).count();
        assert_eq!(after_a_pause, 5);
    }
}
