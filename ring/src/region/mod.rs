//! The memory of a ring, seen through typed accessors: words of eight bytes, each loaded and stored at
//! once. Nothing here is ever borrowed, because another process may write to any of it at any time.
//!
//! `mapped` is the real thing; `model` is the same interface over loom's cells, which report every
//! access that the orderings do not separate.

#[cfg(not(loom))]
mod mapped;
#[cfg(not(loom))]
pub(crate) use mapped::Region;

#[cfg(loom)]
mod model;
#[cfg(loom)]
pub(crate) use model::Region;

use crate::position::Position;

impl Region {
    /// Copies the bytes from `at` on, a multiple of eight, into `buffer`. They do not wrap.
    #[inline]
    pub(crate) fn copy(&self, at: Position, buffer: &mut [u8]) {
        let mut at = at;
        let (words, rest) = buffer.as_chunks_mut::<8>();
        for word in words {
            *word = self.word(at).to_ne_bytes();
            at = at.advanced(8);
        }
        if !rest.is_empty() {
            let word = self.word(at).to_ne_bytes();
            rest.copy_from_slice(&word[..rest.len()]);
        }
    }
}
