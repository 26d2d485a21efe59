//! What safe code can do against the protocol. The worst that comes of it are records that make no sense.
#![forbid(unsafe_code)]

use std::os::unix::fs::FileExt as _;

use agentfs_ring::{Capacity, Consumer, OwnerId, create, heap};

use crate::support::{claim, push};

/// Whoever says of a living owner that it is dead has two claims at once. ThreadSanitizer (`cargo xtask
/// tsan`) sees the writer write over the record that the first one still copies.
#[test]
fn record_that_is_released_by_another_claim_may_only_say_something_else() {
    let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
    let other = OwnerId::new(u64::MAX.try_into().expect("not zero"));
    assert!(push(&mut producer, &[1; 1000]));
    let mut first = claim(&consumer);
    let record = first.next().expect("honest").expect("a record");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut second = consumer.claim(other, |_| false).expect("taken over");
            for item in 0..200 {
                while second.next().expect("honest").is_some() {}
                let _ = second.release();
                assert!(push(&mut producer, &[item; 1000]));
            }
        });
        for _ in 0..200 {
            assert_eq!(record.to_vec().len(), 1000);
        }
    });
}

#[test]
fn record_that_is_written_over_through_the_file_may_only_say_something_else() {
    let (mut producer, fd) = create(Capacity::MIN).expect("a ring");
    let file = std::fs::File::from(fd.try_clone().expect("a descriptor"));
    let consumer = Consumer::open(fd).expect("our own ring");
    assert!(push(&mut producer, &[1; 1000]));
    let mut claim = claim(&consumer);
    let record = claim.next().expect("honest").expect("a record");
    file.write_all_at(&[2; 500], (128 << 10) + 8)
        .expect("written over");
    let copy = record.to_vec();
    assert_eq!(copy[..500], [2; 500]);
    assert_eq!(copy[500..], [1; 500]);
}
