//! Records that wait in memory because a ring is full.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many bytes all spills of a service hold, and how many they may hold.
#[derive(Debug)]
pub(crate) struct Pool {
    bytes: AtomicUsize,
    limit: usize,
}

impl Pool {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            limit,
        }
    }

    /// Returns how many bytes are held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns whether more may be taken. Committers that ask at the same time may all get a yes,
    /// so each may exceed the limit by one record.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes() < self.limit
    }
}

/// The number of a record in one spill, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Ordinal(u64);

/// A queue of encoded records in chunks. Appending copies bytes and rarely allocates.
#[derive(Debug)]
pub(crate) struct Spill {
    chunks: VecDeque<Chunk>,
    /// The number of the first record that is still here.
    first: u64,
    /// The number of the next record.
    next: u64,
    pool: Arc<Pool>,
}

#[derive(Debug, Default)]
struct Chunk {
    /// A 32-bit length and the bytes of each record.
    bytes: Vec<u8>,
    read: usize,
}

const CHUNK: usize = 64 << 10;
const LENGTH: usize = 4;

impl Spill {
    pub(crate) fn new(pool: Arc<Pool>) -> Self {
        Self {
            chunks: VecDeque::new(),
            first: 0,
            next: 0,
            pool,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first == self.next
    }

    /// Returns how many records wait.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.next - self.first).unwrap_or(usize::MAX)
    }

    /// Returns whether a record is still here.
    pub(crate) fn holds(&self, record: Ordinal) -> bool {
        record.0 >= self.first
    }

    /// Appends a record of `len` bytes, which `write` appends.
    pub(crate) fn push(&mut self, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> Ordinal {
        let framed = LENGTH + len;
        if self
            .chunks
            .back()
            .is_none_or(|chunk| chunk.bytes.capacity() - chunk.bytes.len() < framed)
        {
            let bytes = Vec::with_capacity(framed.max(CHUNK));
            self.chunks.push_back(Chunk { bytes, read: 0 });
        }
        if let Some(chunk) = self.chunks.back_mut() {
            let start = chunk.bytes.len();
            let length = u32::try_from(len).unwrap_or(u32::MAX);
            chunk.bytes.extend_from_slice(&length.to_ne_bytes());
            write(&mut chunk.bytes);
            chunk.bytes.resize(start + framed, 0);
        }
        self.pool.bytes.fetch_add(framed, Ordering::Relaxed);
        let ordinal = Ordinal(self.next);
        self.next += 1;
        ordinal
    }

    /// Returns the oldest record.
    pub(crate) fn front(&self) -> Option<(Ordinal, &[u8])> {
        let chunk = self.chunks.front()?;
        Some((Ordinal(self.first), chunk.front()?))
    }

    /// Removes the oldest record.
    pub(crate) fn pop(&mut self) {
        let Some(chunk) = self.chunks.front_mut() else {
            return;
        };
        let framed = chunk.front().map_or(0, |record| LENGTH + record.len());
        chunk.read += framed;
        if chunk.read == chunk.bytes.len() {
            self.chunks.pop_front();
        }
        self.first += 1;
        self.pool.bytes.fetch_sub(framed, Ordering::Relaxed);
    }
}

impl Chunk {
    fn front(&self) -> Option<&[u8]> {
        let (length, rest) = self.bytes.get(self.read..)?.split_first_chunk::<LENGTH>()?;
        rest.get(..usize::try_from(u32::from_ne_bytes(*length)).ok()?)
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        let left: usize = self
            .chunks
            .iter()
            .map(|chunk| chunk.bytes.len() - chunk.read)
            .sum();
        self.pool.bytes.fetch_sub(left, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_as_they_went_in_and_the_pool_is_paid_back() {
        let pool = Arc::new(Pool::new(1 << 20));
        let mut spill = Spill::new(Arc::clone(&pool));
        let record = |number: usize| vec![u8::try_from(number % 251).unwrap(); number % 3000];
        for number in 0..500 {
            let bytes = record(number);
            spill.push(bytes.len(), |all| all.extend_from_slice(&bytes));
        }
        for number in 0..300 {
            let (ordinal, bytes) = spill.front().expect("it holds 500");
            assert_eq!(bytes, record(number));
            assert!(spill.holds(ordinal));
            spill.pop();
            assert!(!spill.holds(ordinal));
        }
        assert_eq!(spill.len(), 200);
        assert!(pool.bytes() > 0);
        drop(spill);
        assert_eq!(pool.bytes(), 0);
    }
}
