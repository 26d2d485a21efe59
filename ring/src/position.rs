//! Positions and sizes in the ring.

use core::fmt;

/// Every frame starts and ends at a multiple of this many bytes.
pub(crate) const ALIGN: u64 = 8;

/// A free-running byte position: it only grows, and wraps around the ring by a mask.
///
/// At 100 GB/s a `u64` lasts five years; the ring does not handle its overflow.
///
/// # Examples
/// ```
/// use agentfs_ring::{Capacity, heap};
///
/// let (producer, _consumer) = heap(Capacity::MIN)?;
/// assert_eq!(producer.tail().get(), 0);
/// # Ok::<(), agentfs_ring::MapError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Position(u64);

impl Position {
    /// "At no position": what a wake-up or refill word says before anything was asked for.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(crate) const START: Self = Self(0);

    #[inline]
    pub(crate) const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Returns the bytes since the ring was made.
    ///
    /// # Examples
    /// ```
    /// # use agentfs_ring::{Capacity, Reserve, heap};
    /// # let (mut producer, _consumer) = heap(Capacity::MIN)?;
    /// let Reserve::Slot(slot) = producer.reserve(8)? else { unreachable!() };
    /// slot.commit();
    /// assert_eq!(producer.tail().get(), 16); // the record, and 8 bytes before it
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    #[inline]
    pub(crate) const fn is_aligned(self) -> bool {
        self.0.is_multiple_of(ALIGN)
    }

    #[inline]
    pub(crate) const fn advanced(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Returns the bytes from `earlier` to here. They are many when `earlier` is later, which every caller rules out or
    /// treats as a peer's lie.
    #[inline]
    pub(crate) const fn since(self, earlier: Self) -> u64 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Returns whether moving from `old` to `new` passes this position: the window test of virtio's
    /// `vring_need_event`. True for exactly one move, so a request is answered once.
    #[inline]
    pub(crate) const fn is_passed_by(self, old: Self, new: Self) -> bool {
        old.0 <= self.0 && self.0 < new.0
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size of the record area in bytes: a power of two from 4 KiB to 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Capacity(u32);

impl Capacity {
    /// 4 KiB.
    pub const MIN: Self = Self(4 << 10);
    /// 1 GiB.
    pub const MAX: Self = Self(1 << 30);
    /// 64 KiB: some 900 records without a name.
    pub const DEFAULT: Self = Self(64 << 10);

    /// Returns the capacity of this size.
    ///
    /// # Errors
    /// [`CapacityError`] unless `bytes` is a power of two from 4 KiB to 1 GiB.
    ///
    /// # Examples
    /// ```
    /// use agentfs_ring::Capacity;
    /// assert_eq!(Capacity::new(65_536)?, Capacity::DEFAULT);
    /// assert!(Capacity::new(65_535).is_err());
    /// # Ok::<(), agentfs_ring::CapacityError>(())
    /// ```
    pub const fn new(bytes: usize) -> Result<Self, CapacityError> {
        if bytes.is_power_of_two() && bytes >= Self::MIN.bytes() && bytes <= Self::MAX.bytes() {
            #[expect(clippy::cast_possible_truncation, reason = "at most 1 GiB")]
            Ok(Self(bytes as u32))
        } else {
            Err(CapacityError { bytes })
        }
    }

    /// Returns a size that a test may choose freely: any power of two that holds a frame.
    #[cfg(loom)]
    #[doc(hidden)]
    #[must_use]
    pub fn for_model(bytes: u32) -> Self {
        assert!(bytes.is_power_of_two() && bytes >= 16);
        Self(bytes)
    }

    /// Returns the size in bytes.
    ///
    /// # Examples
    /// ```
    /// use agentfs_ring::Capacity;
    /// assert_eq!(Capacity::default().bytes(), 64 << 10);
    /// ```
    #[must_use]
    #[inline]
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    #[inline]
    pub(crate) const fn get(self) -> u64 {
        self.0 as u64
    }

    /// Returns where a position lies in the record area.
    #[inline]
    pub(crate) const fn offset(self, at: Position) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "masked to below 1 GiB")]
        let low = at.get() as u32;
        (low & (self.0 - 1)) as usize
    }

    /// Returns the bytes from a position to the end of the record area.
    #[inline]
    pub(crate) const fn to_end(self, at: Position) -> u64 {
        self.get() - self.offset(at) as u64
    }

    /// Returns the length of the longest record: its frame takes half the ring, so that an empty ring has room for it
    /// wherever its head stands, behind the padding that it may need.
    #[inline]
    pub(crate) const fn max_record(self) -> usize {
        self.bytes() / 2 - 8
    }
}

impl Default for Capacity {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A ring cannot have this size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CapacityError {
    bytes: usize,
}

impl fmt::Display for CapacityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a ring of {} bytes is not possible: choose a power of two from 4096 (4 KiB) to \
             1073741824 (1 GiB)",
            self.bytes
        )
    }
}

impl core::error::Error for CapacityError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_passed_once() {
        let at = Position::new(16);
        assert!(!at.is_passed_by(Position::new(0), Position::new(16)));
        assert!(at.is_passed_by(Position::new(16), Position::new(24)));
        assert!(at.is_passed_by(Position::new(8), Position::new(32)));
        assert!(!at.is_passed_by(Position::new(24), Position::new(32)));
        assert!(!Position::NEVER.is_passed_by(Position::START, Position::new(u64::MAX - 8)));
    }

    #[test]
    fn capacity_is_a_power_of_two_in_bounds() {
        for bytes in [0, 1, 2048, 4097, 1 << 31, usize::MAX] {
            assert_eq!(Capacity::new(bytes), Err(CapacityError { bytes }));
        }
        for shift in 12..=30 {
            assert_eq!(
                Capacity::new(1 << shift).map(Capacity::bytes),
                Ok(1 << shift)
            );
        }
    }

    #[test]
    fn offsets_wrap_at_the_capacity() {
        let capacity = Capacity::MIN;
        assert_eq!(capacity.offset(Position::new(4096 * 7 + 24)), 24);
        assert_eq!(capacity.to_end(Position::new(4096 * 7 + 24)), 4096 - 24);
        assert_eq!(capacity.to_end(Position::new(4096)), 4096);
    }
}
