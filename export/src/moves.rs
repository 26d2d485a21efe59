//! Where paths lead through many renames. A question costs the depth of the path and the renames that
//! concern it, however many there are.

use std::collections::HashMap;

use agentfs_proto::bytes::Bytes;

use crate::changes::moved;

/// Renames, in the order in which they are made.
#[derive(Debug, Default)]
pub(crate) struct Moves<'a> {
    /// The step that each is, and its two names.
    all: Vec<(usize, &'a [u8], &'a [u8])>,
    /// Their places in `all`, by the old and by the new name.
    by_from: HashMap<&'a [u8], Vec<usize>>,
    by_to: HashMap<&'a [u8], Vec<usize>>,
}

/// Returns the path itself and each directory above it.
fn with_parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let parents = slashes.filter_map(|(at, _)| path.get(..at));
    parents.chain([path])
}

impl<'a> Moves<'a> {
    /// Adds a rename, which is a later step than those that were added before.
    pub(crate) fn add(&mut self, step: usize, from: &'a [u8], to: &'a [u8]) {
        let at = self.all.len();
        self.all.push((step, from, to));
        self.by_from.entry(from).or_default().push(at);
        self.by_to.entry(to).or_default().push(at);
    }

    /// Returns where a path of this step is before all renames.
    pub(crate) fn back(&self, path: &Bytes, step: usize) -> Bytes {
        let mut path = path.clone();
        let mut end = self.all.partition_point(|(at, ..)| *at < step);
        loop {
            let last = |prefix: &[u8]| {
                let places = self.by_to.get(prefix)?;
                let earlier = places.partition_point(|at| *at < end).checked_sub(1)?;
                places.get(earlier).copied()
            };
            let Some(at) = with_parents(&path).filter_map(last).max() else {
                return path;
            };
            if let Some((_, from, to)) = self.all.get(at) {
                path = moved(&path, to, from).unwrap_or(path);
            }
            end = at;
        }
    }

    /// Follows a path of this step through the later renames. Returns the step of the next one that
    /// moves it, and the path after that.
    pub(crate) fn next(&self, path: &Bytes, step: usize) -> Option<(usize, Bytes)> {
        let start = self.all.partition_point(|(at, ..)| *at <= step);
        let first = |prefix: &[u8]| {
            let places = self.by_from.get(prefix)?;
            places
                .get(places.partition_point(|at| *at < start))
                .copied()
        };
        let at = with_parents(path).filter_map(first).min()?;
        let (step, from, to) = self.all.get(at)?;
        Some((*step, moved(path, from, to)?))
    }

    /// Returns where a path of this step is after all renames.
    pub(crate) fn on(&self, path: &Bytes, mut step: usize) -> Bytes {
        let mut path = path.clone();
        while let Some((later, to)) = self.next(&path, step) {
            (step, path) = (later, to);
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Moves, moved};

    /// A generator of numbers (xorshift), so that the test needs no crate for that.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn path(state: &mut u64) -> Bytes {
        let depth = random(state) % 3 + 1;
        let names = (0..depth).map(|_| format!("/{}", random(state) % 3));
        Bytes(names.collect::<String>().into_bytes())
    }

    #[test]
    fn paths_lead_where_going_through_all_renames_leads() {
        for seed in 1..500 {
            let mut state = seed;
            let list: Vec<(Bytes, Bytes)> = (0..20)
                .map(|_| (path(&mut state), path(&mut state)))
                .collect();
            let mut moves = Moves::default();
            for (step, (from, to)) in list.iter().enumerate() {
                moves.add(step * 2, from, to);
            }
            for step in 0..40 {
                let (start, steps) = (path(&mut state), list.iter().enumerate());
                let mut back = start.clone();
                for (_, (from, to)) in steps.clone().rev().filter(|(at, _)| at * 2 < step) {
                    back = moved(&back, to, from).unwrap_or(back);
                }
                assert_eq!(moves.back(&start, step), back, "seed {seed}");
                let mut on = start.clone();
                for (_, (from, to)) in steps.filter(|(at, _)| at * 2 > step) {
                    on = moved(&on, from, to).unwrap_or(on);
                }
                assert_eq!(moves.on(&start, step), on, "seed {seed}");
            }
        }
    }
}
