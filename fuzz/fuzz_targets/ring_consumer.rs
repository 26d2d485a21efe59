//! A consumer reads a ring whose producer's words and record area hold any bytes.
//!
//! The input is the words `tail`, `head` and `refill_at`, and then the record area from the head on,
//! so that a short input says everything wherever the head is. The consumer may get a typed error. It
//! may not panic, read outside of the ring, hand out more than the ring holds, or forget an error.
#![no_main]

use std::sync::LazyLock;

use agentfs_fuzz::{Input, Memory, ring};
use agentfs_proto::record::{EventRef, encode};
use agentfs_ring::{Bell, Capacity, Consumer, OwnerId, create};
use libfuzzer_sys::fuzz_target;

const CAPACITY: usize = Capacity::MIN.bytes();

/// One ring for all inputs. A consumer has no state of its own: each claim starts with the words.
static RING: LazyLock<(Consumer, Memory)> = LazyLock::new(|| {
    let (_, fd) = create(Capacity::MIN).expect("a ring");
    let memory = Memory::of(&fd);
    (Consumer::open(fd).expect("our own ring"), memory)
});

fuzz_target!(|data: &[u8]| {
    let (consumer, memory) = &*RING;
    let mut input = Input(data);
    let (tail, head) = (input.word(), input.word());
    memory.poke(ring::TAIL, tail);
    memory.poke(ring::HEAD, head);
    memory.poke(ring::REFILL_AT, input.word());
    let mut area = input.bytes(CAPACITY).to_vec();
    area.resize(CAPACITY, 0);
    area.rotate_right(head as usize % CAPACITY);
    memory.write(ring::DATA, &area);

    let mut claim = consumer
        .claim(OwnerId::this_process(), |_| true)
        .expect("nobody else pops");
    let mut taken = 0;
    let error = loop {
        match claim.next() {
            Ok(Some(record)) => {
                taken += 8 + record.len();
                read_event(&record.to_vec());
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
        assert!(taken <= CAPACITY, "more than the ring holds");
    };
    if let Some(error) = error {
        assert_eq!(claim.next().err(), Some(error), "an error that goes away");
    }
    let _: Bell = claim.release();
    let _ = claim.arm();
    let _ = claim.has_pending();
});

/// Reads a record as an event. What parses is made of the parts that it was parsed into.
fn read_event(record: &[u8]) {
    let Ok(event) = EventRef::parse(record) else {
        return;
    };
    let mut again = Vec::new();
    let put = |part: &[u8]| again.extend_from_slice(part);
    encode(event.head(), event.path(), event.aux(), put).expect("the same length");
    assert_eq!(again.len(), record.len());
    let used = 64 + event.path().len() + event.aux().len();
    assert_eq!(again[..used], record[..used]);
}
