//! A peer that writes anything anywhere: typed errors, no panic, no access outside the ring, no
//! endless loop.

use agentfs_ring::{
    Bell, Capacity, Consumer, Corrupt, OpenError, OwnerId, PeerError, Reserve, create,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{DATA, HEAD, Memory, OWNER, REFILL_AT, TAIL, WAKE_AT, claim, push, ring};

/// Numbers that break things more often than random ones do.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0_u64..10_000,
        (0_u64..1250).prop_map(|n| n * 8),
        (0_u64..64).prop_map(|n| u64::MAX - n),
        (0_u64..64).prop_map(|n| 1_u64.wrapping_shl(u32::try_from(n).unwrap_or(0))),
    ]
}

#[derive(Clone, Debug)]
enum Act {
    Poke(usize, u64),
    Push(usize),
    Unread,
    Refill,
}

fn consumer_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (prop_oneof![Just(HEAD), Just(WAKE_AT), Just(OWNER)], word())
            .prop_map(|(at, word)| Act::Poke(at, word)),
        4 => (0_usize..2048).prop_map(Act::Push),
        1 => Just(Act::Unread),
        1 => Just(Act::Refill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_producer_survives_any_consumer(acts in vec(consumer_act(), 1..100)) {
        let (mut producer, _consumer, memory) = ring();
        let mut last = producer.tail();
        for act in acts {
            let outcome = match act {
                Act::Poke(at, word) => {
                    memory.poke_word(at, word);
                    Ok(())
                }
                Act::Push(len) => match producer.reserve(len) {
                    Ok(Reserve::Slot(mut slot)) => {
                        slot.put(&vec![0xa5; len]);
                        last = slot.commit();
                        producer.publish().map(|_bell: Bell| ())
                    }
                    Ok(Reserve::Full | Reserve::TooLong) => Ok(()),
                    Err(error) => Err(error),
                },
                Act::Unread => producer.is_unread(last).map(|_| ()),
                Act::Refill => producer.request_refill(8).map(|_| ()),
            };
            if let Err(error) = outcome {
                let known = matches!(error, PeerError::Head { .. } | PeerError::WakePosition { .. });
                prop_assert!(known);
                prop_assert!(error.to_string().contains("close its session"));
            }
            prop_assert!(producer.used() <= producer.capacity().bytes());
        }
        // The header and the words that are the consumer's are as the two sides left them.
        prop_assert_eq!(&memory.peek(0, 8), b"AgFsRing");
    }

    #[test]
    fn a_consumer_survives_any_producer(
        pokes in vec((0_usize..512, word()), 0..64),
        tail in word(),
        head in word(),
        refill in word(),
        good in 0_usize..20,
    ) {
        let (mut producer, consumer, memory) = ring();
        for item in 0..good {
            push(&mut producer, &vec![1; item * 8]);
        }
        for (slot, word) in pokes {
            memory.poke_word(DATA + slot * 8, word);
        }
        memory.poke_word(TAIL, tail);
        memory.poke_word(REFILL_AT, refill);
        if good % 2 == 0 {
            memory.poke_word(HEAD, head);
        }
        let mut claim = claim(&consumer);
        let mut taken = 0;
        let end = loop {
            match claim.next() {
                Ok(Some(record)) => {
                    // Every byte can be touched.
                    taken += 8 + record.to_vec().len();
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
            prop_assert!(taken <= Capacity::MIN.bytes(), "more than the ring holds");
        };
        if let Some(error) = end {
            let known = matches!(error, Corrupt::Tail { .. } | Corrupt::Frame { .. });
            prop_assert!(known);
            prop_assert_eq!(claim.next().err(), Some(error), "an error that goes away");
        }
        let _: Bell = claim.release();
        let _ = claim.arm();
        let _ = claim.has_pending();
    }

    #[test]
    fn an_owner_word_of_any_value_never_hands_out_two_claims(owner in word()) {
        let (_producer, consumer, memory) = ring();
        memory.poke_word(OWNER, owner);
        let me = OwnerId::this_process();
        let first = consumer.claim(me, |_| false);
        prop_assert_eq!(first.is_some(), owner != me.get());
        if first.is_some() {
            prop_assert!(consumer.claim(me, |_| false).is_none());
        }
    }

    #[test]
    fn a_header_of_any_bytes_is_opened_or_refused(
        at in 0_usize..40,
        bytes in vec(any::<u8>(), 1..16),
    ) {
        let (_producer, fd) = create(Capacity::MIN).expect("a ring");
        let memory = Memory::map(&fd);
        let before = memory.peek(0, 40);
        memory.poke(at, &bytes[..bytes.len().min(40 - at)]);
        let unchanged = memory.peek(0, 40) == before;
        match Consumer::open(fd) {
            Ok(_) => prop_assert!(unchanged),
            Err(error) => {
                prop_assert!(!unchanged);
                prop_assert!(!matches!(error, OpenError::Map(_) | OpenError::NotSealed), "{error}");
            }
        }
    }
}

#[test]
fn a_head_that_goes_back_is_refused() {
    let (mut producer, consumer, memory) = ring();
    assert!(push(&mut producer, &[0; 2000]));
    let mut claim = claim(&consumer);
    assert!(claim.next().expect("honest").is_some());
    let _ = claim.release();
    let head = producer.observe_head().expect("honest");
    memory.poke_word(HEAD, 0);
    assert!(matches!(
        producer.observe_head(),
        Err(PeerError::Head { found, least, .. }) if found.get() == 0 && least == head
    ));
}

#[test]
fn a_ring_that_claims_more_than_its_memory_is_refused() {
    let (_producer, fd) = create(Capacity::MIN).expect("a ring");
    Memory::map(&fd).poke_word(16, 1 << 30);
    assert!(matches!(
        Consumer::open(fd),
        Err(OpenError::TooSmall { found, needed }) if found == (128 << 10) + 4096 && needed > 1 << 30
    ));
}

#[test]
fn padding_without_end_is_read_once_around() {
    let (_producer, consumer, memory) = ring();
    for slot in 0..512 {
        memory.poke_word(DATA + slot * 8, 2 << 32);
    }
    memory.poke_word(TAIL, 4096);
    let mut claim = claim(&consumer);
    assert!(claim.next().expect("padding is legal").is_none());
    memory.poke_word(TAIL, 8192);
    assert!(
        matches!(claim.next(), Err(Corrupt::Tail { .. })),
        "the head has not moved"
    );
}
