//! One consuming end in several threads and forked children: nobody sees a record twice.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use agentfs_ring::{Capacity, Consumer, OwnerId, Producer, create, heap};

use crate::support::{Child, claim, drain, push, ring};

const RECORDS: u64 = 20_000;

fn push_all(producer: &mut Producer) {
    for item in 0..RECORDS {
        while !push(producer, &item.to_ne_bytes()) {
            std::thread::yield_now();
        }
    }
}

/// Pops one record under each claim until the last one, which stays for the others to find.
fn pop_in_turns(consumer: &Consumer, mut seen: impl FnMut(u64)) {
    loop {
        let Some(mut claim) = consumer.claim(OwnerId::this_process(), |_| true) else {
            std::thread::yield_now();
            continue;
        };
        let Some(record) = claim.next().expect("an honest producer") else {
            drop(claim);
            std::thread::yield_now();
            continue;
        };
        let item = u64::from_ne_bytes(record.to_vec().try_into().expect("eight bytes"));
        if item == RECORDS - 1 {
            return;
        }
        seen(item);
        let _ = claim.release();
    }
}

/// Both ends use one mapping, so ThreadSanitizer (`cargo xtask tsan`) sees every byte of a record
/// written and read, and the hand-overs between them.
#[test]
fn records_pass_from_thread_to_thread_through_one_mapping() {
    let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
    let bytes_of = |item: u64| {
        item.to_ne_bytes()
            .repeat(1 + usize::from(item.is_multiple_of(3)))
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for item in 0..RECORDS {
                while !push(&mut producer, &bytes_of(item)) {
                    std::thread::yield_now();
                }
            }
        });
        let mut claim = claim(&consumer);
        let mut next = 0;
        while next < RECORDS {
            for record in drain(&mut claim) {
                assert_eq!(record, bytes_of(next));
                next += 1;
            }
            std::thread::yield_now();
        }
    });
}

#[test]
fn two_threads_share_the_records_between_them() {
    let (mut producer, consumer, _memory) = ring();
    let seen = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut mine = Vec::new();
                pop_in_turns(&consumer, |item| mine.push(item));
                assert!(mine.is_sorted(), "out of order");
                seen.lock().expect("unpoisoned").append(&mut mine);
            });
        }
        push_all(&mut producer);
    });
    check(&seen.into_inner().expect("unpoisoned"));
}

#[test]
fn a_forked_child_shares_the_records_with_its_parent() {
    let (mut producer, fd) = create(Capacity::MIN).expect("a ring");
    let consumer = Consumer::open(fd).expect("our own ring");
    let (mut here, mut there) = UnixStream::pair().expect("a socket pair");
    let child = Child::spawn(usize::MAX, |_| {
        let mut mine = Vec::new();
        pop_in_turns(&consumer, |item| mine.push(item));
        for item in mine {
            there
                .write_all(&item.to_ne_bytes())
                .expect("a parent that reads");
        }
    });
    drop(there);
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| push_all(&mut producer));
        pop_in_turns(&consumer, |item| seen.push(item));
    });
    let mut bytes = Vec::new();
    here.read_to_end(&mut bytes).expect("what the child saw");
    child.finish();
    seen.extend(
        bytes
            .chunks(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("a word"))),
    );
    check(&seen);
}

#[track_caller]
fn check(seen: &[u64]) {
    let distinct: BTreeSet<u64> = seen.iter().copied().collect();
    assert_eq!(seen.len(), distinct.len(), "a record was seen twice");
    assert_eq!(distinct, (0..RECORDS - 1).collect());
}

#[test]
fn a_claim_is_refused_while_another_is_held_and_free_afterwards() {
    let (_producer, consumer, _memory) = ring();
    let first = claim(&consumer);
    assert!(consumer.claim(OwnerId::this_process(), |_| true).is_none());
    let other = OwnerId::new(u64::MAX.try_into().expect("not zero"));
    assert!(consumer.claim(other, |_| true).is_none());
    drop(first);
    assert!(consumer.claim(other, |_| true).is_some());
}

#[test]
fn a_dead_owner_is_replaced_and_its_late_drop_frees_nothing() {
    let (_producer, consumer, _memory) = ring();
    let late = claim(&consumer);
    let other = OwnerId::new(u64::MAX.try_into().expect("not zero"));
    let thief = consumer.claim(other, |_| false).expect("replaced");
    drop(late);
    assert!(consumer.claim(OwnerId::this_process(), |_| true).is_none());
    drop(thief);
    assert!(consumer.claim(OwnerId::this_process(), |_| true).is_some());
}
