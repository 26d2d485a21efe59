//! A cheap hash for keys that no attacker chooses: numbers that this process gave out.

use std::hash::{BuildHasherDefault, Hasher};

pub(super) type BuildMix = BuildHasherDefault<Mix>;

/// Multiplies and folds, one 64-bit word at a time.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Mix(u64);

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

#[inline]
pub(super) fn mix(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ word).wrapping_mul(u128::from(GOLDEN));
    #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
    let low = product as u64;
    low ^ (product >> 64) as u64
}

impl Hasher for Mix {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.0 = mix(self.0.rotate_left(23), word);
    }
}
