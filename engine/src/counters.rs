//! How often each thing happened to records.

/// Counts of one queue or of all queues. They only grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Records written into rings.
    pub published: u64,
    /// Events that added nothing to an unread record.
    pub coalesced: u64,
    /// Records that had to wait in memory because a ring was full.
    pub spilled: u64,
    /// Differences delivered in place of events.
    pub healed: u64,
    /// Overflow records enqueued.
    pub overflowed: u64,
    /// Doorbells rung.
    pub doorbells: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.published += other.published;
        self.coalesced += other.coalesced;
        self.spilled += other.spilled;
        self.healed += other.healed;
        self.overflowed += other.overflowed;
        self.doorbells += other.doorbells;
    }
}
