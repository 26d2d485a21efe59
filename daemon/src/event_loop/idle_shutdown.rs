//! The end of a daemon that is not used any more, if a command started it for its own use.

use std::time::{Duration, Instant};

/// How long a new daemon waits for its first session.
const START: Duration = Duration::from_secs(30);
/// How long the daemon stays for the next session.
const LINGER: Duration = Duration::from_secs(2);

/// Whether the daemon is idle.
#[derive(Debug)]
pub(crate) enum IdleShutdown {
    /// The daemon is in use; or something would be lost with it, and nothing has changed since that
    /// was found.
    Used,
    /// The daemon may be idle; that is still to be checked.
    Perhaps,
    /// The daemon is idle and ends at this time.
    Until(Instant),
}

impl IdleShutdown {
    pub(crate) fn starting(now: Instant) -> Self {
        Self::Until(now + START)
    }

    /// Notes that a session or a mount has ended.
    pub(crate) fn look_again(&mut self) {
        if matches!(self, Self::Used) {
            *self = Self::Perhaps;
        }
    }

    pub(crate) fn timeout(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Used => None,
            Self::Perhaps => Some(Duration::ZERO),
            Self::Until(end) => Some(end.saturating_duration_since(now)),
        }
    }

    /// Returns whether the daemon is to end now. `is_idle` is called only when no program is connected.
    pub(crate) fn is_over(
        &mut self,
        is_alone: bool,
        now: Instant,
        is_idle: impl FnOnce() -> bool,
    ) -> bool {
        if !is_alone {
            *self = Self::Used;
            return false;
        }
        match self {
            Self::Used => false,
            Self::Perhaps => {
                *self = if is_idle() {
                    Self::Until(now + LINGER)
                } else {
                    Self::Used
                };
                false
            }
            Self::Until(end) if now < *end => false,
            Self::Until(_) => {
                let is_idle = is_idle();
                if !is_idle {
                    *self = Self::Used;
                }
                is_idle
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{IdleShutdown, LINGER, START};
    use std::time::{Duration, Instant};

    #[test]
    fn it_ends_a_while_after_the_last_use() {
        let start = Instant::now();
        let mut idle = IdleShutdown::starting(start);
        assert!(!idle.is_over(true, start, || true));
        assert_eq!(idle.timeout(start), Some(START));
        assert!(!idle.is_over(false, start, || true), "somebody came");
        assert_eq!(idle.timeout(start), None);
        assert!(!idle.is_over(true, start, || true), "nothing has changed");
        idle.look_again();
        assert_eq!(idle.timeout(start), Some(Duration::ZERO));
        assert!(!idle.is_over(true, start, || true));
        assert_eq!(idle.timeout(start), Some(LINGER));
        assert!(idle.is_over(true, start + LINGER, || true));
    }

    #[test]
    fn it_stays_while_something_would_be_lost() {
        let start = Instant::now();
        let mut idle = IdleShutdown::starting(start);
        assert!(!idle.is_over(false, start, || true));
        idle.look_again();
        assert!(!idle.is_over(true, start, || false));
        assert_eq!(
            idle.timeout(start),
            None,
            "it is not looked at again and again"
        );
        idle.look_again();
        assert!(!idle.is_over(true, start, || true));
        assert!(idle.is_over(true, start + LINGER, || true));
    }
}
