//! A request channel in which the other end writes any words.
//!
//! The input is the words `tail`, `lock` and `head`, and then the slots. The daemon may get a typed
//! error. Neither end may panic, and the daemon goes round at most once.
#![no_main]

use std::num::NonZeroU64;

use agentfs_fuzz::{Input, Memory, channel};
use agentfs_proto::registration::Registration;
use agentfs_ring::OwnerId;
use agentfs_ring::requests::{REQUEST_WORDS, RequestWriter, SLOTS, create};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (mut reader, fd) = create().expect("a channel");
    let memory = Memory::of(&fd);
    let mut input = Input(data);
    memory.poke(channel::TAIL, input.word());
    memory.poke(channel::LOCK, input.word());
    let head = input.word();
    let slots = input.0;
    memory.write(
        channel::SLOTS,
        input.bytes(SLOTS as usize * REQUEST_WORDS * 8),
    );

    let mut count = 0;
    while let Ok(Some(words)) = reader.next() {
        if let Some(slot) = slots.chunks_exact(32).nth(count) {
            assert_eq!(words, words_of(slot), "slot {count}");
        }
        count += 1;
        assert!(count <= SLOTS as usize, "more than the channel holds");
        if let Some(request) = Registration::from_words(words) {
            assert_eq!(Registration::from_words(request.to_words()), Some(request));
        }
    }

    // The program's end, with a daemon that lies about what it has read.
    memory.poke(channel::HEAD, head);
    let writer = RequestWriter::open(fd).expect("a header that is as it was made");
    let me = OwnerId::new(NonZeroU64::MIN);
    let _ = writer.send([1; REQUEST_WORDS], me, |_| head % 2 == 0);
    let _ = reader.has_pending();
});

fn words_of(slot: &[u8]) -> [u64; REQUEST_WORDS] {
    let mut words = [0; REQUEST_WORDS];
    for (word, bytes) in words.iter_mut().zip(slot.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
    }
    words
}
