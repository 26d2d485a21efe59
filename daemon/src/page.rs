//! The counters in a named page of shared memory, for observers that ask the daemon nothing.
//!
//! One page of 64-byte entries in the byte order of the machine. The first is the head; every other
//! is a name of up to 56 bytes, padded with NUL, and a value.
//!
//! | head | |
//! |---|---|
//! | 0..8 | `AGFSCTR1` |
//! | 8..16 | how many entries follow |
//! | 16..24 | the daemon's process |
//! | 24..32 | when the values were written, nanoseconds since the epoch |
//!
//! The daemon writes the values about once a second and whenever it is asked for its status. Each
//! value by itself is one that the counter had; together they may be of slightly different moments.
#![expect(unsafe_code, reason = "lays atomics over mapped memory")]
#![expect(clippy::cast_ptr_alignment, reason = "mappings are page-aligned")]

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use shared_memory::{Shmem, ShmemConf, ShmemError};

const PAGE: usize = 4096;
const ENTRY: usize = 64;
const WORDS: usize = ENTRY / size_of::<u64>();
const NAME_WORDS: usize = WORDS - 1;
const MAX_COUNTERS: usize = PAGE / ENTRY - 1;
const MAGIC: u64 = u64::from_ne_bytes(*b"AGFSCTR1");

/// The page. It is removed when this is dropped; what a killed daemon left, the next one at the same
/// socket replaces.
pub(crate) struct CountersPage {
    memory: Shmem,
}

/// The name of the page of the daemon that listens at `socket`: the same after a restart. With at
/// most 31 bytes, as macOS wants it.
pub(crate) fn name_for(socket: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    socket.hash(&mut hasher);
    format!("agentfs-{:016x}", hasher.finish())
}

impl CountersPage {
    /// Makes the page for these counters, readable for this user alone and writable for nobody else.
    pub(crate) fn create(name: &str, counters: &[(&'static str, u64)]) -> io::Result<Self> {
        let make = || {
            ShmemConf::new()
                .os_id(format!("/{name}"))
                .size(PAGE)
                .create()
        };
        let memory = match make() {
            Err(ShmemError::MappingIdExists) => {
                rustix::shm::unlink(format!("/{name}"))?;
                make()
            }
            made => made,
        };
        let page = Self {
            memory: memory.map_err(io::Error::other)?,
        };
        // The mapping stays writable; who opens the name from now on may only read.
        let read_only = rustix::fs::Mode::RUSR;
        let opened = rustix::shm::open(
            format!("/{name}"),
            rustix::shm::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )?;
        rustix::fs::fchmod(opened, read_only)?;
        for (index, (counter, _)) in counters.iter().take(MAX_COUNTERS).enumerate() {
            for (word, bytes) in counter.as_bytes().chunks(8).take(NAME_WORDS).enumerate() {
                let mut padded = [0; 8];
                padded
                    .iter_mut()
                    .zip(bytes)
                    .for_each(|(to, from)| *to = *from);
                page.store((index + 1) * WORDS + word, u64::from_ne_bytes(padded));
            }
        }
        page.store(1, counters.len().min(MAX_COUNTERS) as u64);
        page.store(2, u64::from(std::process::id()));
        page.write(counters);
        page.store(0, MAGIC);
        Ok(page)
    }

    /// Writes the values, in the order in which the page was made.
    pub(crate) fn write(&self, counters: &[(&'static str, u64)]) {
        for (index, (_, value)) in counters.iter().take(MAX_COUNTERS).enumerate() {
            self.store((index + 1) * WORDS + NAME_WORDS, *value);
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.store(3, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    }

    fn store(&self, word: usize, value: u64) {
        if word >= PAGE / size_of::<u64>() {
            return;
        }
        // SAFETY: the mapping has PAGE bytes, and the word lies within.
        let at = unsafe { self.memory.as_ptr().cast::<AtomicU64>().add(word) };
        // SAFETY: mapped as long as `self` lives, aligned as pages are, and any bits are a value.
        let cell = unsafe { &*at };
        cell.store(value, Ordering::Relaxed);
    }
}
