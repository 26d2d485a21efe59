//! A set of descriptor numbers that costs two loads to ask.

use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const WORDS: usize = 512;
const CHUNK: usize = WORDS * 64;
const CHUNKS: usize = 32;

/// Descriptor numbers below 1,048,576, the most that Linux and macOS hand out by default. A larger
/// number is never in the set.
#[derive(Debug)]
pub(crate) struct FdSet {
    chunks: [OnceLock<Box<[AtomicU64; WORDS]>>; CHUNKS],
}

/// Descriptors of ours, which the program must not close.
pub(crate) static HIDDEN: FdSet = FdSet::new();

impl FdSet {
    pub(crate) const fn new() -> Self {
        Self {
            chunks: [const { OnceLock::new() }; CHUNKS],
        }
    }

    /// Where the bit of `fd` is: chunk, word, mask.
    fn place(fd: RawFd) -> Option<(usize, usize, u64)> {
        let fd = usize::try_from(fd).ok()?;
        let (chunk, bit) = (fd / CHUNK, fd % CHUNK);
        (chunk < CHUNKS).then_some((chunk, bit / 64, 1 << (bit % 64)))
    }

    #[inline]
    pub(crate) fn contains(&self, fd: RawFd) -> bool {
        let Some((chunk, word, mask)) = Self::place(fd) else {
            return false;
        };
        // Acquire: who sees the bit finds what was put into the table before it was set.
        self.chunks
            .get(chunk)
            .and_then(OnceLock::get)
            .and_then(|words| words.get(word))
            .is_some_and(|bits| bits.load(Ordering::Acquire) & mask != 0)
    }

    /// False when the number is too large to remember.
    pub(crate) fn insert(&self, fd: RawFd) -> bool {
        let Some((chunk, word, mask)) = Self::place(fd) else {
            return false;
        };
        let Some(chunk) = self.chunks.get(chunk) else {
            return false;
        };
        let words = chunk.get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS]));
        if let Some(bits) = words.get(word) {
            bits.fetch_or(mask, Ordering::Release);
        }
        true
    }

    /// True if it was in the set.
    pub(crate) fn remove(&self, fd: RawFd) -> bool {
        let Some((chunk, word, mask)) = Self::place(fd) else {
            return false;
        };
        self.chunks
            .get(chunk)
            .and_then(OnceLock::get)
            .and_then(|words| words.get(word))
            .is_some_and(|bits| bits.fetch_and(!mask, Ordering::AcqRel) & mask != 0)
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        for words in self.chunks.iter().filter_map(OnceLock::get) {
            for bits in words.iter() {
                bits.store(0, Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FdSet;

    #[test]
    fn holds_what_was_put_in_and_refuses_what_it_cannot() {
        let set = FdSet::new();
        for fd in [0, 63, 64, 32_767, 32_768, 1_048_575] {
            assert!(!set.contains(fd));
            assert!(set.insert(fd));
            assert!(set.contains(fd));
            assert!(!set.contains(fd + 1));
            assert!(set.remove(fd));
            assert!(!set.remove(fd));
        }
        for fd in [-1, i32::MIN, 1_048_576, i32::MAX] {
            assert!(!set.insert(fd));
            assert!(!set.contains(fd));
            assert!(!set.remove(fd));
        }
        set.insert(7);
        set.clear();
        assert!(!set.contains(7));
    }
}
