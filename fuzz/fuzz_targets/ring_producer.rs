//! A producer works while the consumer's words become any numbers.
//!
//! The input is a list of acts, each a byte with its arguments. The producer may get a typed error. It
//! may not panic, loop, hold more than its ring has room for, or write outside of its own parts.
#![no_main]

use agentfs_fuzz::{Input, Memory, ring};
use agentfs_ring::{Bell, Capacity, Producer, Refill, Reserve, create};
use libfuzzer_sys::fuzz_target;

/// What the consumer's page holds beside the three words, and nobody may write.
const UNTOUCHED: u64 = ring::OWNER + 8;

fuzz_target!(|data: &[u8]| {
    let (mut producer, fd) = create(Capacity::MIN).expect("a ring");
    let memory = Memory::of(&fd);
    let header = memory.read(0, 40);
    let mut input = Input(data);
    let mut last = producer.tail();
    while let Some(act) = input.byte() {
        match act % 8 {
            0 => memory.poke(ring::HEAD, input.word()),
            1 => memory.poke(ring::WAKE_AT, input.word()),
            2 => memory.poke(ring::OWNER, input.word()),
            // A consumer that has read everything so far, without which the ring is soon full.
            3 => memory.poke(ring::HEAD, producer.tail().get()),
            4 | 5 => {
                let len = usize::from(input.byte().unwrap_or(0)) * if act < 128 { 1 } else { 16 };
                push(&mut producer, len, &mut last);
            }
            6 => {
                let _ = producer.is_unread(last);
            }
            _ => {
                let len = usize::from(input.byte().unwrap_or(0)) * 16;
                let _: Result<Refill, _> = producer.request_refill(len);
            }
        }
        assert!(producer.used() <= Capacity::MIN.bytes());
    }
    assert_eq!(memory.read(0, 40), header, "the header was written to");
    assert!(memory.read(UNTOUCHED, 120).iter().all(|byte| *byte == 0));
});

fn push(producer: &mut Producer, len: usize, last: &mut agentfs_ring::Position) {
    let fits = len <= producer.max_record();
    match producer.reserve(len) {
        Ok(Reserve::Slot(mut slot)) => {
            assert!(fits);
            slot.put(&vec![0xA5; len]);
            *last = slot.commit();
        }
        Ok(Reserve::TooLong) => assert!(!fits),
        Ok(Reserve::Full) | Err(_) => {}
    }
    let _: Result<Bell, _> = producer.publish();
}
