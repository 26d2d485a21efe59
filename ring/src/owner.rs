//! The name of the process that has claimed a consumer.

use core::num::NonZeroU64;

/// The name of a claimant. A process id will do, because a second claim with the same id is refused
/// like any other while the first is held.
///
/// # Examples
/// ```
/// use std::num::NonZeroU64;
///
/// use agentfs_ring::OwnerId;
///
/// let this = OwnerId::this_process();
/// assert_eq!(this.get(), u64::from(std::process::id()));
/// assert_ne!(OwnerId::new(NonZeroU64::MAX), this);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OwnerId(NonZeroU64);

impl OwnerId {
    /// Returns the name with this number.
    ///
    /// # Examples
    /// ```
    /// # use std::num::NonZeroU64;
    /// # use agentfs_ring::OwnerId;
    /// let number = NonZeroU64::new(7).expect("not zero");
    /// let owner = OwnerId::new(number);
    /// assert_eq!(owner.get(), 7);
    /// ```
    #[must_use]
    pub const fn new(id: NonZeroU64) -> Self {
        Self(id)
    }

    /// Returns the name of this process: its process id.
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::OwnerId;
    /// let me = OwnerId::this_process();
    /// assert_eq!(me.get(), u64::from(std::process::id()));
    /// assert_eq!(me, OwnerId::this_process());
    /// ```
    #[must_use]
    pub fn this_process() -> Self {
        let pid = u64::from(std::process::id());
        Self(NonZeroU64::new(pid).unwrap_or(NonZeroU64::MIN))
    }

    /// Returns the number of the name.
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::OwnerId;
    /// let me = OwnerId::this_process();
    /// let pid = u32::try_from(me.get())?;
    /// assert_eq!(pid, std::process::id());
    /// # Ok::<(), std::num::TryFromIntError>(())
    /// ```
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}
