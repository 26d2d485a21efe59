//! How long a call may wait.

use std::time::{Duration, Instant};

/// The moment until which a call waits.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use agentfs_client::Deadline;
///
/// let soon = Deadline::after(Duration::from_secs(5));
/// assert!(soon.remaining().is_some_and(|left| left <= Duration::from_secs(5)));
/// assert_eq!(Deadline::NEVER.remaining(), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Never comes: a call waits as long as it takes.
    pub const NEVER: Self = Self(None);

    /// Returns the moment that comes after `wait`, counted from now. A wait that the clock cannot count
    /// has no end.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use agentfs_client::Deadline;
    /// assert_eq!(Deadline::after(Duration::MAX), Deadline::NEVER);
    /// ```
    #[must_use]
    pub fn after(wait: Duration) -> Self {
        Self(Instant::now().checked_add(wait))
    }

    /// Returns the time that is left, zero when the deadline has passed, or `None` for
    /// [`NEVER`](Self::NEVER).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use agentfs_client::Deadline;
    /// assert_eq!(Deadline::after(Duration::ZERO).remaining(), Some(Duration::ZERO));
    /// ```
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        self.0
            .map(|until| until.saturating_duration_since(Instant::now()))
    }
}
