//! Ranges of pages that take room and hold no bytes: what fallocate allocated. A range is one entry,
//! however long it is, so an offset or a size that a caller makes up costs nothing.

use std::ops::Range;

use crate::store::trie::Trie;

/// What a range of pages is where the branch has no bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    /// Allocated by fallocate and never written.
    Allocated,
    /// Allocated twice: counts as data from then on, as on tmpfs.
    Zeros,
}

/// A range of page numbers with one mark.
pub(crate) type Marked = (Range<u64>, Mark);

/// Ranges that do not overlap. Pages with bytes may lie over them; a range is not cut for those.
///
/// The key is the last page of a range, so the first entry from a page on is the range that holds
/// the page, or the next one.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks(Trie<(u64, Mark)>);

impl Marks {
    /// Returns the range that holds the page, or the next one.
    pub(super) fn from(&self, page: u64) -> Option<Marked> {
        let (last, (first, mark)) = self.0.range_from(page).next()?;
        Some((*first..last + 1, *mark))
    }

    #[cfg(test)]
    fn at(&self, page: u64) -> Option<Mark> {
        let (range, mark) = self.from(page)?;
        range.contains(&page).then_some(mark)
    }

    /// Returns the ranges that touch `within`, as a whole.
    fn touching(&self, within: Range<u64>) -> impl Iterator<Item = Marked> + '_ {
        let all = self.0.range_from(within.start);
        all.map(|(last, (first, mark))| (*first..last + 1, *mark))
            .take_while(move |(range, _)| range.start < within.end)
    }

    /// Returns the ranges in `within`, cut to it.
    pub(super) fn within(&self, within: Range<u64>) -> impl Iterator<Item = Marked> + '_ {
        let (start, end) = (within.start, within.end);
        self.touching(within)
            .map(move |(range, mark)| (range.start.max(start)..range.end.min(end), mark))
    }

    /// Replaces the marks in `within` by `parts`, which lie in it in order.
    pub(super) fn replace(&mut self, within: Range<u64>, parts: impl IntoIterator<Item = Marked>) {
        if within.is_empty() {
            return;
        }
        // The neighbours may be joined with the new ranges.
        let around = within.start.saturating_sub(1)..within.end.saturating_add(1);
        let old: Vec<Marked> = self.touching(around).collect();
        for (range, _) in &old {
            self.0.remove(range.end - 1);
        }
        let before = old
            .iter()
            .map(|(range, mark)| (range.start..range.end.min(within.start), *mark));
        let after = old
            .iter()
            .map(|(range, mark)| (range.start.max(within.end)..range.end, *mark));
        let all = before.chain(parts).chain(after);
        let mut open: Option<Marked> = None;
        for (range, mark) in all.filter(|(range, _)| !range.is_empty()) {
            match &mut open {
                Some((last, its)) if *its == mark && last.end == range.start => {
                    last.end = range.end;
                }
                _ => {
                    self.put(open.replace((range, mark)));
                }
            }
        }
        self.put(open);
    }

    fn put(&mut self, marked: Option<Marked>) {
        if let Some((range, mark)) = marked {
            self.0.insert(range.end - 1, (range.start, mark));
        }
    }
}

#[cfg(test)]
mod tests {
    use agentfs_testkit::random::Random;

    use super::{Mark, Marks};

    /// Compares with an array of pages.
    #[test]
    fn ranges_agree_with_single_pages() {
        const PAGES: u64 = 64;
        let mut random = Random::new(1);
        let mut next = |below: u64| random.range(0..below);
        let (mut marks, mut model) = (Marks::default(), vec![None; 64]);
        for _ in 0..5000 {
            let start = next(PAGES);
            let end = start + next(PAGES - start) + 1;
            let mark = match next(3) {
                0 => None,
                1 => Some(Mark::Allocated),
                _ => Some(Mark::Zeros),
            };
            marks.replace(start..end, mark.map(|mark| (start..end, mark)));
            for page in start..end {
                model[usize::try_from(page).expect("few")] = mark;
            }
            let found: Vec<_> = (0..PAGES).map(|page| marks.at(page)).collect();
            assert_eq!(found, model);
            let ranges: Vec<_> = marks.within(0..PAGES).collect();
            let is_merged =
                |pair: &[super::Marked]| pair[0].0.end < pair[1].0.start || pair[0].1 != pair[1].1;
            assert!(ranges.windows(2).all(is_merged), "{ranges:?}");
        }
    }
}
