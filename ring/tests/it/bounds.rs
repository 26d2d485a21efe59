//! Each bound that keeps a reader inside the ring and a writer away from what is unread, from both of its
//! sides. A bound that is off by one frame fails here.

use std::collections::BTreeMap;

use agentfs_ring::{
    ArmOutcome, Bell, Capacity, Consumer, PeerError, Producer, RecordBuffer, Refill, Reserve, heap,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{DATA, HEAD, Memory, TAIL, WAKE_AT, claim, drain, push, ring};

const CAPACITY: u64 = 4096;
const RECORD: u64 = 1;
const PADDING: u64 = 2;

fn header(kind: u64, len: u64) -> u64 {
    kind << 32 | len
}

/// Puts one frame header at `at`, and the ends of what is published around it.
fn lay(memory: &Memory, at: u64, word: u64, tail: u64) {
    memory.poke_word(DATA + usize::try_from(at % CAPACITY).expect("small"), word);
    memory.poke_word(HEAD, at);
    memory.poke_word(TAIL, tail);
}

/// Returns the lengths of what both ways of reading find, or that they refuse it.
fn read(consumer: &Consumer) -> Result<Option<usize>, ()> {
    let mut buffer = RecordBuffer::new();
    let peeked = consumer.peek(&mut buffer);
    let peeked = peeked.map(|found| found.map(|it| it.bytes().unwrap_or_default().len()));
    let mut claim = claim(consumer);
    let claimed = claim.next().map(|found| found.map(|it| it.len()));
    assert_eq!(peeked.is_err(), claimed.is_err(), "{peeked:?}, {claimed:?}");
    if let (Ok(peeked), Ok(claimed)) = (&peeked, &claimed) {
        assert_eq!(peeked, claimed);
    }
    claimed.map_err(drop)
}

#[test]
fn frame_ends_where_publishing_ends_or_before() {
    for (len, tail, expected) in [
        (56, 64, Ok(Some(56))),
        (57, 64, Err(())),
        (64, 64, Err(())),
        (64, 72, Ok(Some(64))),
        (0, 8, Ok(Some(0))),
        (u64::from(u32::MAX), CAPACITY, Err(())),
    ] {
        let (_producer, consumer, memory) = ring();
        lay(&memory, 0, header(RECORD, len), tail);
        assert_eq!(
            read(&consumer),
            expected,
            "{len} bytes, published to {tail}"
        );
    }
}

#[test]
fn frame_ends_where_the_ring_ends_or_before() {
    for kind in [RECORD, PADDING] {
        for (at, len, expected) in [
            (4032, 56, Some(56)),
            (4032, 57, None),
            (4088, 0, Some(0)),
            (4088, 8, None),
            (CAPACITY * 5 + 4088, 8, None),
        ] {
            let (_producer, consumer, memory) = ring();
            lay(&memory, at, header(kind, len), at + 256);
            // Behind padding nothing is laid, which is no frame.
            let expected = expected.filter(|_| kind == RECORD).map(Some).ok_or(());
            assert_eq!(
                read(&consumer),
                expected,
                "kind {kind}, {len} bytes at {at}"
            );
        }
    }
}

#[test]
fn only_two_kinds_are_frames() {
    for kind in [0, 3, 1 << 31, u64::from(u32::MAX)] {
        let (_producer, consumer, memory) = ring();
        lay(&memory, 0, header(kind, 8), 16);
        assert_eq!(read(&consumer), Err(()), "kind {kind}");
    }
}

#[test]
fn tail_is_at_most_a_ring_ahead() {
    for (tail, expected) in [(CAPACITY, Ok(Some(8))), (CAPACITY + 8, Err(()))] {
        let (_producer, consumer, memory) = ring();
        lay(&memory, 0, header(RECORD, 8), tail);
        assert_eq!(read(&consumer), expected, "{tail}");
    }
}

#[test]
fn head_is_at_a_frame_and_not_beyond_what_is_published() {
    let refused = |head: u64| {
        let (mut producer, _consumer, memory) = ring();
        assert!(push(&mut producer, &[0; 56]));
        let Ok(Reserve::Slot(slot)) = producer.reserve(56) else {
            panic!("room")
        };
        slot.commit();
        memory.poke_word(HEAD, head);
        matches!(producer.observe_head(), Err(PeerError::Head { .. }))
    };
    for (head, expected) in [
        (0, false),
        (64, false),
        (4, true),
        (63, true),
        (72, true),
        (128, true),
    ] {
        assert_eq!(refused(head), expected, "{head}");
    }
}

#[test]
fn wake_position_is_not_beyond_what_is_published() {
    for (wake_at, expected) in [
        (64, true),
        (72, false),
        (u64::MAX - 7, false),
        (u64::MAX, true),
    ] {
        let (mut producer, _consumer, memory) = ring();
        memory.poke_word(WAKE_AT, wake_at);
        let Ok(Reserve::Slot(slot)) = producer.reserve(56) else {
            panic!("room")
        };
        slot.commit();
        let published = producer.publish();
        let is_accepted = !matches!(published, Err(PeerError::WakePosition { .. }));
        assert_eq!(is_accepted, expected, "{wake_at}: {published:?}");
        assert_eq!(memory.peek_word(TAIL), 64, "published all the same");
    }
}

#[test]
fn reader_that_sleeps_over_records_that_it_has_not_released_is_woken() {
    let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
    assert!(push(&mut producer, b"taken"));
    let mut claim = claim(&consumer);
    assert!(claim.next().expect("honest").is_some());
    assert_eq!(claim.arm(), Ok(ArmOutcome::MaySleep));
    let Ok(Reserve::Slot(slot)) = producer.reserve(8) else {
        panic!("room")
    };
    slot.commit();
    assert_eq!(producer.publish(), Ok(Bell::Ring));
}

#[test]
fn record_that_is_put_in_parts_too_long_or_too_short_is_as_long_as_its_room() {
    let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
    for parts in [
        &[&b"0123"[..], b"456789", b"abcdef"][..],
        &[b"0123456789abcdefgh"],
        &[b"01"],
        &[],
    ] {
        let Ok(Reserve::Slot(mut slot)) = producer.reserve(13) else {
            panic!("room")
        };
        for part in parts {
            slot.put(part);
        }
        slot.commit();
        let mut expected = parts.concat();
        expected.resize(13, 0);
        let _ = producer.publish().expect("honest");
        assert_eq!(drain(&mut claim(&consumer)), [expected]);
    }
}

/// Pops until the consumer rings back. Returns how many records that took.
fn pop_until_rung(consumer: &Consumer) -> Option<usize> {
    let mut claim = claim(consumer);
    for popped in 1.. {
        claim.next().expect("an honest producer")?;
        if claim.release() == Bell::Ring {
            return Some(popped);
        }
    }
    None
}

/// Fills the ring with records of these lengths in turn. Returns how many there are.
fn fill(producer: &mut Producer, lens: &[usize]) -> usize {
    let records = lens
        .iter()
        .cycle()
        .take_while(|len| push(producer, &vec![7; **len]));
    records.count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whatever the lengths are, and wherever the ring stands: a refill that was asked for is answered
    /// once, before the ring is empty or when it is, and then the record has room.
    #[test]
    fn refill_is_answered_once_and_then_the_record_fits(
        before in vec(0_usize..300, 1..40),
        lens in vec(0_usize..300, 1..20),
        wanted in 0_usize..2041,
    ) {
        let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
        for len in before {
            push(&mut producer, &vec![1; len]);
            drain(&mut claim(&consumer));
        }
        let mut left = fill(&mut producer, &lens);
        // Longer records find no room either; a shorter one may.
        if producer.request_refill(wanted)? == Refill::SpaceNow {
            prop_assert!(matches!(producer.reserve(wanted)?, Reserve::Slot(_)));
            return Ok(());
        }
        let popped = pop_until_rung(&consumer);
        prop_assert!(popped.is_some(), "asleep, and the ring is empty");
        left -= popped.unwrap_or_default();
        prop_assert!(push(&mut producer, &vec![2; wanted]), "rung, and no room");
        for _ in 0..=left {
            let mut claim = claim(&consumer);
            let record = claim.next()?;
            prop_assert!(record.is_some());
            prop_assert_eq!(claim.release(), Bell::Quiet, "rung twice");
        }
        prop_assert!(drain(&mut claim(&consumer)).is_empty());
    }

    /// What is unread stays as it was written, however the writer prepares the lines before it.
    #[test]
    fn writer_leaves_alone_what_is_unread(
        steps in vec((0_usize..700, 0_usize..4), 1..200),
    ) {
        let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
        let mut claim = claim(&consumer);
        let mut unread = std::collections::VecDeque::new();
        for (number, (len, pops)) in steps.into_iter().enumerate() {
            let bytes = vec![u8::try_from(number % 255).expect("small") + 1; len];
            if push(&mut producer, &bytes) {
                unread.push_back(bytes);
            }
            for _ in 0..pops {
                let popped = claim.next()?.map(|record| record.to_vec());
                prop_assert_eq!(popped, unread.pop_front());
            }
            let _: Bell = claim.release();
        }
    }

    /// A chain of frames that is right but for one: the reader finds what a parser finds that has all the
    /// time in the world.
    #[test]
    fn chain_with_one_wrong_frame_is_read_up_to_it(
        start in 0_u64..512,
        lens in vec((0_u64..100, any::<bool>()), 1..30),
        wrong in (0_usize..30, prop_oneof![Just(8_u64), Just(1), Just(64), Just(4096), Just(1 << 31)]),
        cut in 0_u64..3,
    ) {
        let (_producer, consumer, memory) = ring();
        let start = CAPACITY + start * 8;
        let (mut at, mut words) = (start, BTreeMap::new());
        for (number, (len, is_record)) in lens.into_iter().enumerate() {
            let kind = if is_record { RECORD } else { PADDING };
            let claimed = if number == wrong.0 { len + wrong.1 } else { len };
            let to_end = CAPACITY - at % CAPACITY;
            if at + 8 + len.next_multiple_of(8) > start + CAPACITY || 8 + len > to_end {
                break;
            }
            words.insert(at, header(kind, claimed));
            at += 8 + len.next_multiple_of(8);
        }
        for (at, word) in &words {
            memory.poke_word(DATA + usize::try_from(at % CAPACITY).expect("small"), *word);
        }
        let tail = at.saturating_sub(cut * 8).max(start);
        memory.poke_word(HEAD, start);
        memory.poke_word(TAIL, tail);
        let expected = parse(&memory, start, tail);
        let mut claim = claim(&consumer);
        let mut found = Vec::new();
        loop {
            match claim.next() {
                Ok(Some(record)) => found.push(Ok(u64::try_from(record.to_vec().len()).expect("small"))),
                Ok(None) => break,
                Err(_) => {
                    found.push(Err(()));
                    break;
                }
            }
        }
        prop_assert_eq!(found, expected);
    }
}

/// Reads frames in numbers too wide to overflow.
fn parse(memory: &Memory, start: u64, tail: u64) -> Vec<Result<u64, ()>> {
    let (mut at, tail) = (u128::from(start), u128::from(tail));
    let capacity = u128::from(CAPACITY);
    let mut found = Vec::new();
    while at < tail {
        let word = memory.peek_word(DATA + usize::try_from(at % capacity).expect("small"));
        let (kind, len) = (word >> 32, u128::from(word & u64::from(u32::MAX)));
        let end = at + 8 + len.div_ceil(8) * 8;
        let is_inside = end <= tail && end <= (at / capacity + 1) * capacity;
        match kind {
            RECORD if is_inside => found.push(Ok(u64::try_from(len).expect("small"))),
            PADDING if is_inside => {}
            _ => {
                found.push(Err(()));
                break;
            }
        }
        at = end;
    }
    found
}
