//! An inotify descriptor as the models of the bell see it, and a read of it as the preloaded library does it.
//!
//! The kernel's queue holds at most one event of the bell, because a further one merges with it. The program
//! may read the queue where no hook sees it, and then the bell is gone and nothing was popped.

use agentfs_ring::{Armed, Bell, Consumer, Copied, Look, Producer, RecordBuffer, Reserve};

#[cfg(loom)]
use loom::sync::{Condvar, Mutex};
#[cfg(not(loom))]
use std::sync::{Condvar, Mutex};

/// What `RING_MUTANT` may name beside the orderings of the ring: a step of the protocol that is left out.
pub const MUTANTS: &[&str] = &[
    "sleep_unlooked",
    "ring_once",
    "note_no_ring",
    "cross_silently",
];

/// Mutants are shown to the models alone.
const IS_MODEL: bool = cfg!(loom);

/// Returns whether a step is to be left out.
fn is_mutant(name: &str) -> bool {
    debug_assert!(MUTANTS.contains(&name));
    IS_MODEL && std::env::var("RING_MUTANT").is_ok_and(|it| it == name)
}

/// The kernel's queue of an inotify instance.
#[derive(Debug)]
pub struct Descriptor {
    has_bell: Mutex<bool>,
    rung: Condvar,
}

impl Default for Descriptor {
    fn default() -> Self {
        Self {
            has_bell: Mutex::new(false),
            rung: Condvar::new(),
        }
    }
}

impl Descriptor {
    /// Puts an event of the bell into the queue, as the daemon and the library do.
    ///
    /// # Panics
    /// When a reader panicked.
    pub fn ring(&self) {
        *self.has_bell.lock().expect("no reader panicked") = true;
        self.rung.notify_all();
    }

    /// Returns what poll(2) says.
    ///
    /// # Panics
    /// When a reader panicked.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        *self.has_bell.lock().expect("no reader panicked")
    }

    /// Reads the queue without waiting, as a program does that no hook sees: the bell is gone.
    ///
    /// # Panics
    /// When a reader panicked.
    pub fn swallow(&self) -> bool {
        core::mem::take(&mut *self.has_bell.lock().expect("no reader panicked"))
    }

    /// Reads the queue as the kernel's read(2) does: waits until something is there.
    ///
    /// # Panics
    /// When a reader panicked.
    pub fn read(&self) {
        let mut has_bell = self.has_bell.lock().expect("no reader panicked");
        while !core::mem::take(&mut *has_bell) {
            has_bell = self.rung.wait(has_bell).expect("no reader panicked");
        }
    }
}

/// Reads at most `most` items as the library's hook of read(2) does: waits for the first, and leaves the
/// descriptor readable when something is left.
///
/// # Panics
/// When the ring makes no sense.
pub fn hooked_read(consumer: &Consumer, descriptor: &Descriptor, most: usize) -> Vec<u64> {
    loop {
        wait_for_something(consumer, descriptor);
        let items = pop(consumer, descriptor, most);
        if !items.is_empty() {
            return items;
        }
    }
}

fn wait_for_something(consumer: &Consumer, descriptor: &Descriptor) {
    if is_mutant("sleep_unlooked") {
        return descriptor.read();
    }
    loop {
        match consumer.look() {
            Look::Quiet | Look::Ringing => return descriptor.read(),
            Look::Waiting => {
                if !descriptor.is_readable() {
                    // The bell was lost, or another reader has it and is about to pop.
                    descriptor.ring();
                }
                return descriptor.read();
            }
            Look::Unarmed => arm(consumer, descriptor),
        }
    }
}

fn arm(consumer: &Consumer, descriptor: &Descriptor) {
    if consumer.arm().expect("an honest producer") == Armed::Crossed && !is_mutant("cross_silently")
    {
        descriptor.ring();
    }
}

/// Pops at most `most` items, until the ring is empty and armed, or rings for what is left.
///
/// # Panics
/// When the ring makes no sense.
pub fn pop(consumer: &Consumer, descriptor: &Descriptor, most: usize) -> Vec<u64> {
    let mut items = Vec::new();
    let mut buffer = RecordBuffer::new();
    loop {
        let Some(record) = consumer.peek(&mut buffer).expect("an honest producer") else {
            match consumer.arm().expect("an honest producer") {
                Armed::MaySleep => return items,
                Armed::Pending => continue,
                Armed::Crossed => {
                    if !is_mutant("cross_silently") {
                        descriptor.ring();
                    }
                    return items;
                }
            }
        };
        if items.len() == most {
            descriptor.ring();
            return items;
        }
        items.extend(take(consumer, &record));
    }
}

/// Takes a record, unless another reader has done that.
fn take(consumer: &Consumer, record: &Copied<'_>) -> Option<u64> {
    let bytes = record.bytes().unwrap_or_default();
    let words = bytes.chunks_exact(8).flat_map(<[u8; 8]>::try_from);
    let words: Vec<u64> = words.map(u64::from_ne_bytes).collect();
    let _ = consumer.take(record.place())?;
    let item = *words.first()?;
    assert!(words.iter().all(|it| *it == item), "a torn record");
    Some(item)
}

/// Takes the first item, if there is one and no other reader has taken it meanwhile.
///
/// # Panics
/// When the ring makes no sense.
#[must_use]
pub fn take_one(consumer: &Consumer) -> Option<u64> {
    let mut buffer = RecordBuffer::new();
    let record = consumer.peek(&mut buffer).expect("an honest producer")?;
    take(consumer, &record)
}

/// The daemon's end.
#[derive(Debug)]
pub struct Daemon {
    producer: Producer,
}

impl Daemon {
    /// Takes the producer's end.
    #[must_use]
    pub fn new(producer: Producer) -> Self {
        Self { producer }
    }

    /// Publishes an item of one word, and rings if the program sleeps. Returns false when the ring is full.
    ///
    /// # Panics
    /// When the consumer lies.
    pub fn push(&mut self, descriptor: &Descriptor, item: u64) -> bool {
        self.push_long(descriptor, item, 1)
    }

    /// Publishes an item of `words` words, and rings if the program sleeps. Returns false when the ring is
    /// full.
    ///
    /// # Panics
    /// When the consumer lies.
    pub fn push_long(&mut self, descriptor: &Descriptor, item: u64, words: usize) -> bool {
        let Reserve::Slot(mut slot) = self
            .producer
            .reserve(8 * words)
            .expect("an honest consumer")
        else {
            return false;
        };
        for _ in 0..words {
            slot.put(&item.to_ne_bytes());
        }
        slot.commit();
        if self.producer.publish().expect("an honest consumer") == Bell::Ring {
            self.ring(descriptor);
        }
        true
    }

    fn ring(&mut self, descriptor: &Descriptor) {
        descriptor.ring();
        if !is_mutant("note_no_ring") {
            self.producer.note_ring();
        }
    }

    /// Rings once more, as the daemon does when what it published lies unread for long.
    pub fn ring_again(&mut self, descriptor: &Descriptor) {
        if !is_mutant("ring_once") {
            self.ring(descriptor);
        }
    }
}
