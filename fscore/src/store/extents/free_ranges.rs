//! The free ranges of a file, in blocks. The smallest one that fits is taken, the first of those.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

#[derive(Debug, Default)]
pub(super) struct FreeRanges {
    /// Ranges that do not touch, by where they begin: where they end.
    by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
    /// The parts of those whose blocks the disk still has.
    unpunched: BTreeMap<u64, u64>,
    unpunched_total: u64,
}

impl FreeRanges {
    /// Adds a range that is free now.
    pub(super) fn insert(&mut self, range: Range<u64>, is_punched: bool) {
        if !is_punched {
            insert_joined(&mut self.unpunched, range.clone());
            self.unpunched_total += range.end - range.start;
        }
        let before = self.by_start.range(..=range.start).next_back();
        let before = before.filter(|(_, end)| **end == range.start);
        let start = before.map_or(range.start, |(start, _)| *start);
        let after = self.by_start.get(&range.end).copied();
        let end = after.unwrap_or(range.end);
        if start < range.start {
            self.by_len.remove(&(range.start - start, start));
        }
        if after.is_some() {
            self.by_start.remove(&range.end);
            self.by_len.remove(&(end - range.end, range.end));
        }
        self.by_start.insert(start, end);
        self.by_len.insert((end - start, start));
    }

    /// Takes a range of that length; returns where it begins.
    pub(super) fn take(&mut self, len: u64) -> Option<u64> {
        let (found, start) = *self.by_len.range((len, 0)..).next()?;
        self.by_len.remove(&(found, start));
        self.by_start.remove(&start);
        if found > len {
            self.by_start.insert(start + len, start + found);
            self.by_len.insert((found - len, start + len));
        }
        self.unpunched_total -= remove_range(&mut self.unpunched, start..start + len);
        Some(start)
    }

    pub(super) fn total(&self) -> u64 {
        self.by_len.iter().map(|(len, _)| len).sum()
    }

    /// Returns how many free bytes the disk still has blocks for.
    pub(super) fn unpunched(&self) -> u64 {
        self.unpunched_total
    }

    /// Returns the ranges whose blocks the disk still has, which the caller gives back.
    pub(super) fn take_unpunched(&mut self) -> impl Iterator<Item = Range<u64>> + use<> {
        self.unpunched_total = 0;
        let all = std::mem::take(&mut self.unpunched);
        all.into_iter().map(|(start, end)| start..end)
    }
}

/// Adds a range, and joins it with those that it touches.
fn insert_joined(ranges: &mut BTreeMap<u64, u64>, range: Range<u64>) {
    let after = ranges.get(&range.end).copied();
    let end = after.unwrap_or(range.end);
    if after.is_some() {
        ranges.remove(&range.end);
    }
    let start = ranges.range(..=range.start).next_back();
    let start = start.filter(|(_, end)| **end == range.start);
    let start = start.map_or(range.start, |(start, _)| *start);
    ranges.insert(start, end);
}

/// Removes what lies in a range; returns how much that was.
fn remove_range(ranges: &mut BTreeMap<u64, u64>, range: Range<u64>) -> u64 {
    let mut removed = 0;
    let first = ranges.range(..range.start).next_back();
    let first = first.map_or(range.start, |(start, _)| *start);
    let touched: Vec<_> = ranges
        .range(first..range.end)
        .map(|(start, end)| (*start, *end))
        .filter(|(_, end)| *end > range.start)
        .collect();
    for (start, end) in touched {
        ranges.remove(&start);
        if start < range.start {
            ranges.insert(start, range.start);
        }
        if end > range.end {
            ranges.insert(range.end, end);
        }
        removed += end.min(range.end) - start.max(range.start);
    }
    removed
}

#[cfg(test)]
mod tests {
    use agentfs_testkit::random::Random;

    use super::FreeRanges;

    /// Compares with an array of units.
    #[test]
    fn ranges_agree_with_single_units() {
        const UNITS: usize = 64;
        let mut random = Random::new(1);
        let mut ranges = FreeRanges::default();
        let (mut is_free, mut is_punched) = ([false; UNITS], [true; UNITS]);
        for _ in 0..20_000 {
            let len = random.range(1..9);
            if random.next_u64().is_multiple_of(2) {
                let longest = is_free.split(|free| !free).map(<[bool]>::len).max();
                let taken = ranges.take(len);
                assert_eq!(taken.is_some(), longest.is_some_and(|it| it as u64 >= len));
                for unit in taken.map(|at| at..at + len).into_iter().flatten() {
                    let unit = usize::try_from(unit).expect("small");
                    assert!(std::mem::take(&mut is_free[unit]), "{unit} was not free");
                    is_punched[unit] = true;
                }
            } else {
                let at = random.range(0..UNITS as u64 - len);
                let (from, to) = (usize::try_from(at), usize::try_from(at + len));
                let units = from.expect("small")..to.expect("small");
                if is_free[units.clone()].iter().any(|free| *free) {
                    continue;
                }
                let punched = random.next_u64().is_multiple_of(2);
                ranges.insert(at..at + len, punched);
                is_free[units.clone()].fill(true);
                is_punched[units].fill(punched);
            }
            let unpunched = is_punched.iter().filter(|punched| !**punched).count();
            assert_eq!(ranges.unpunched(), unpunched as u64);
            if unpunched > UNITS / 2 {
                for unit in ranges.take_unpunched().flatten() {
                    let unit = usize::try_from(unit).expect("small");
                    assert!(!std::mem::replace(&mut is_punched[unit], true), "{unit}");
                }
            }
        }
    }
}
