//! What a record holds: every byte is written by one side and summed by the other, so that nothing
//! is lost or torn unseen.

use agentfs_ring::{Record, Reservation};

/// The longest record that is read.
const MOST: usize = 1024;

/// Writes a record of `len` bytes, a multiple of eight, into a ring.
#[inline]
pub(crate) fn put(slot: &mut Reservation<'_>, len: usize, item: u64) {
    for value in (item..).take(len / 8) {
        slot.put(&value.to_ne_bytes());
    }
}

/// Returns the sum of the words of a record that lies in a ring.
#[inline]
pub(crate) fn sum_of(record: &Record<'_>) -> u64 {
    sum(record.copy_to(&mut [0; MOST]).expect("a short record"))
}

/// Fills a record of `bytes.len()` bytes, a multiple of eight.
#[inline]
pub(crate) fn fill(bytes: &mut [u8], item: u64) {
    for (word, value) in bytes.chunks_exact_mut(8).zip(item..) {
        word.copy_from_slice(&value.to_ne_bytes());
    }
}

/// Returns the sum of a record's words.
#[inline]
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(8).fold(0, |sum: u64, word| {
        sum.wrapping_add(word.try_into().map_or(0, u64::from_ne_bytes))
    })
}

/// Returns a filled record that is an array.
#[inline]
pub(crate) fn array<const WORDS: usize>(item: u64) -> [u64; WORDS] {
    let mut next = item;
    [(); WORDS].map(|()| {
        let value = next;
        next = next.wrapping_add(1);
        value
    })
}

/// Returns the sum of an array's words.
#[inline]
pub(crate) fn sum_array<const WORDS: usize>(record: &[u64; WORDS]) -> u64 {
    record
        .iter()
        .fold(0, |sum: u64, word| sum.wrapping_add(*word))
}

/// Returns what all records together must sum up to.
pub(crate) fn expected(records: u64, words: u64) -> u64 {
    let items = (0..records).fold(0_u64, u64::wrapping_add);
    let within = (0..words).fold(0_u64, u64::wrapping_add);
    items
        .wrapping_mul(words)
        .wrapping_add(records.wrapping_mul(within))
}
