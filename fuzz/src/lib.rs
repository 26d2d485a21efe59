//! What the fuzz targets share: the memory of a ring as a peer writes it that follows no rule, and
//! the input cut into numbers.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

/// Offsets of `docs/ring-abi.md`.
pub mod ring {
    /// The producer's `tail`.
    pub const TAIL: u64 = 128;
    /// The producer's `refill_at`.
    pub const REFILL_AT: u64 = 256;
    /// The consumer's `head`.
    pub const HEAD: u64 = 64 << 10;
    /// The consumer's `wake_at`.
    pub const WAKE_AT: u64 = HEAD + 128;
    /// The consumer's `owner`.
    pub const OWNER: u64 = HEAD + 256;
    /// The records.
    pub const DATA: u64 = 128 << 10;
}

/// Offsets of a request channel, of `docs/shim-protocol.md`.
pub mod channel {
    /// The program's `tail`.
    pub const TAIL: u64 = 64;
    /// The daemon's `head`.
    pub const HEAD: u64 = 128;
    /// The lock of the programs that share the channel.
    pub const LOCK: u64 = 192;
    /// The slots.
    pub const SLOTS: u64 = 4096;
}

/// Shared memory that is written from outside of both ends.
#[derive(Debug)]
pub struct Memory(File);

impl Memory {
    /// Keeps a descriptor of the memory.
    #[must_use]
    pub fn of(fd: &OwnedFd) -> Self {
        let copy = fd.as_fd().try_clone_to_owned().expect("a descriptor");
        Self(File::from(copy))
    }

    /// Writes a 64-bit word.
    pub fn poke(&self, offset: u64, word: u64) {
        self.write(offset, &word.to_ne_bytes());
    }

    /// Writes bytes.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.0.write_all_at(bytes, offset).expect("memory");
    }

    /// Reads bytes.
    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, offset).expect("memory");
        bytes
    }
}

/// The input, taken from its front. What is missing is zero.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Takes one byte, or `None` at the end.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Takes a little-endian word.
    pub fn word(&mut self) -> u64 {
        let mut word = [0; 8];
        let taken = self.bytes(8);
        word[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(word)
    }

    /// Takes at most `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
