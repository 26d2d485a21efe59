//! The ring against a queue of byte strings.

use std::collections::VecDeque;

use agentfs_ring::{Bell, Capacity, Refill, Reserve, heap};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::claim;

#[derive(Clone, Debug)]
enum Step {
    Reserve { len: usize, commit: bool },
    Publish,
    Pop(usize),
    Release,
    Refill(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..2100, any::<bool>()).prop_map(|(len, commit)| Step::Reserve { len, commit }),
        4 => (0_usize..100).prop_map(|len| Step::Reserve { len, commit: true }),
        3 => Just(Step::Publish),
        3 => (1_usize..8).prop_map(Step::Pop),
        2 => Just(Step::Release),
        1 => (0_usize..2000).prop_map(Step::Refill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn ring_matches_a_queue(steps in vec(step(), 1..200)) {
        let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
        let mut claim = claim(&consumer);
        let mut committed: VecDeque<Vec<u8>> = VecDeque::new();
        let mut published: VecDeque<Vec<u8>> = VecDeque::new();
        let mut filler = 0_u8;
        let mut refill_owed = false;
        for step in steps {
            match step {
                Step::Reserve { len, commit } => match producer.reserve(len)? {
                    Reserve::Slot(mut slot) => {
                        filler = filler.wrapping_add(1);
                        // In parts of any length.
                        let bytes = vec![filler; len];
                        for part in bytes.chunks(1 + usize::from(filler) % 13) {
                            slot.put(part);
                        }
                        if commit {
                            slot.commit();
                            committed.push_back(vec![filler; len]);
                        }
                    }
                    // An empty ring takes every record of the longest size or less.
                    Reserve::Full => prop_assert!(producer.used() > 0),
                    Reserve::TooLong => prop_assert!(len > producer.max_record()),
                },
                Step::Publish => {
                    prop_assert_eq!(producer.publish()?, Bell::Quiet);
                    published.append(&mut committed);
                }
                Step::Pop(times) => {
                    for _ in 0..times {
                        let record = claim.next()?.map(|record| record.to_vec());
                        prop_assert_eq!(record, published.pop_front());
                    }
                }
                Step::Release => {
                    if claim.release() == Bell::Ring {
                        prop_assert!(refill_owed, "rang for a request that nobody made");
                        refill_owed = false;
                    }
                }
                Step::Refill(len) if committed.is_empty() => {
                    let _ = producer.publish()?;
                    refill_owed = true;
                    if producer.request_refill(len)? == Refill::SpaceNow {
                        prop_assert!(!matches!(producer.reserve(len)?, Reserve::Full));
                    }
                }
                Step::Refill(_) => {}
            }
        }
    }
}
