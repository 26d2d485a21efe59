//! How often what happened to records.

/// Numbers that only grow, of one queue or of all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Records put into rings.
    pub published: u64,
    /// Events that added nothing to an unread record.
    pub coalesced: u64,
    /// Records that had to wait in memory because a ring was full.
    pub spilled: u64,
    /// Differences told instead of events.
    pub healed: u64,
    /// Overflow records.
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
