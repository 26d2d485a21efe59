//! Blocks that several small extents share. All extents in one block have the same size.

use std::collections::BTreeMap;
use std::ops::Range;

use super::BLOCK;

/// The sizes of small extents.
const CLASSES: [u64; 4] = [256, 512, 1024, 2048];

/// The blocks that have room for another small extent.
#[derive(Debug, Default)]
pub(super) struct SmallBlocks {
    /// For each class, by block: a bit for each free place.
    free: [BTreeMap<u64, u16>; CLASSES.len()],
}

/// Returns a mask with a bit for each place of a block.
fn all_places(class: u64) -> u16 {
    let places = BLOCK / class;
    u16::try_from((1_u32 << places) - 1).unwrap_or(u16::MAX)
}

impl SmallBlocks {
    /// Returns the size of the extent in which so many bytes lie, if that is a small one.
    pub(super) fn class_of(len: u64) -> Option<u64> {
        CLASSES.into_iter().find(|class| len <= *class)
    }

    fn of(&mut self, class: u64) -> &mut BTreeMap<u64, u16> {
        let index = CLASSES.iter().position(|it| *it == class);
        &mut self.free[index.unwrap_or(0)]
    }

    /// Takes a place in a block that has one.
    pub(super) fn take(&mut self, class: u64) -> Option<u64> {
        let blocks = self.of(class);
        let mut entry = blocks.first_entry()?;
        let block = *entry.key();
        let place = entry.get().trailing_zeros();
        *entry.get_mut() &= !(1 << place);
        if *entry.get() == 0 {
            entry.remove();
        }
        Some(block + u64::from(place) * class)
    }

    pub(super) fn total(&self) -> u64 {
        let of = |(blocks, class): (&BTreeMap<u64, u16>, u64)| {
            blocks
                .values()
                .map(|free| u64::from(free.count_ones()) * class)
                .sum::<u64>()
        };
        self.free.iter().zip(CLASSES).map(of).sum()
    }

    /// Adds a block, and takes its first place.
    pub(super) fn add(&mut self, block: u64, class: u64) -> u64 {
        self.of(class).insert(block, all_places(class) & !1);
        block
    }

    /// Takes a place in a block that may be known already; `None` when the block has extents of
    /// another size.
    pub(super) fn adopt(&mut self, at: u64, class: u64) -> Option<()> {
        let block = at / BLOCK * BLOCK;
        let others = self.free.iter().zip(CLASSES);
        if others
            .filter(|(_, other)| *other != class)
            .any(|(blocks, _)| blocks.contains_key(&block))
        {
            return None;
        }
        let free = self
            .of(class)
            .entry(block)
            .or_insert_with(|| all_places(class));
        *free &= !(1 << ((at - block) / class));
        Some(())
    }

    /// Forgets the blocks that turned out to have no free place.
    pub(super) fn adopted(&mut self) {
        for blocks in &mut self.free {
            blocks.retain(|_, free| *free != 0);
        }
    }

    /// Frees a place; returns its block if all of it is free now.
    pub(super) fn free(&mut self, at: u64, class: u64) -> Option<Range<u64>> {
        let block = at / BLOCK * BLOCK;
        let place = (at - block) / class;
        let blocks = self.of(class);
        let free = blocks.entry(block).or_insert(0);
        *free |= 1 << place;
        if *free != all_places(class) {
            return None;
        }
        blocks.remove(&block);
        Some(block..block + BLOCK)
    }
}
