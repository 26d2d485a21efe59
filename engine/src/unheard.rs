//! When a doorbell is rung again.
//!
//! A bell can be lost. It lies in the program's own inotify instance, where a reader that no hook sees takes it
//! away, and a reader that was woken may be killed before it reads the ring. The program then sleeps over
//! what is published. So when something is published and the reader has stood still since an earlier look,
//! the bell is rung once more: at most ten times a second, and by nothing but further changes.

use agentfs_ring::Position;

/// How long a reader may stand still before a further record rings again.
const PATIENCE_MS: u64 = 100;

/// What is known of the reader since the doorbell was last rung.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unheard {
    /// When the reader was last looked at.
    looked_ms: u64,
    /// Where it stood then.
    head: Option<Position>,
}

impl Unheard {
    /// Returns whether it is time to look at the reader: a look is a cache line of another core.
    #[inline]
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        now_ms.wrapping_sub(self.looked_ms) >= PATIENCE_MS
    }

    /// Notes where the reader stands, of which `is_behind` says whether it has something to read. Returns
    /// whether it has stood still, so that the bell is to be rung again.
    pub(crate) fn look(&mut self, now_ms: u64, head: Position, is_behind: bool) -> bool {
        let stood_still = self.head == Some(head);
        self.looked_ms = now_ms;
        self.head = Some(head);
        stood_still && is_behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentfs_ring::{Capacity, Reserve, heap};

    /// Returns the first two places of a reader.
    fn places() -> (Position, Position) {
        let (mut producer, _consumer) = heap(Capacity::MIN).expect("memory");
        let first = producer.tail();
        if let Reserve::Slot(slot) = producer.reserve(8).expect("honest") {
            slot.commit();
        }
        (first, producer.tail())
    }

    #[test]
    fn a_reader_that_stands_still_is_rung_again_and_not_more_often_than_the_patience_allows() {
        let (first, _) = places();
        let mut unheard = Unheard::default();
        assert!(!unheard.look(1000, first, true), "the bell itself");
        assert!(!unheard.is_due(1000 + PATIENCE_MS - 1));
        assert!(unheard.is_due(1000 + PATIENCE_MS));
        assert!(unheard.look(1000 + PATIENCE_MS, first, true));
        assert!(!unheard.is_due(1000 + PATIENCE_MS));
    }

    #[test]
    fn a_reader_that_goes_on_or_has_nothing_to_read_is_left_alone() {
        let (first, second) = places();
        let mut unheard = Unheard::default();
        assert!(!unheard.look(1000, first, true));
        assert!(!unheard.look(2000, second, true), "it has read meanwhile");
        assert!(!unheard.look(3000, second, false), "it has read everything");
        assert!(unheard.look(4000, second, true));
    }
}
