//! An end killed at every step: what was published stays readable, the other end finds out, and
//! nothing blocks.

use std::os::fd::AsFd as _;

use agentfs_ring::doorbell::{Woken, eventfd, peer_is_gone, pipe};
use agentfs_ring::{Capacity, Consumer, OwnerId, Producer, Refill, Reserve, create};

use crate::support::{Child, DEADLINE, Steps, claim, drain, push};

/// Five records of 100 bytes, some of them read by a consumer that passes a step after everything
/// it does.
fn pop_in_steps(consumer: &Consumer, steps: &mut Steps) {
    steps.pass();
    let mut claim = claim(consumer);
    steps.pass();
    for _ in 0..2 {
        let record = claim.next().expect("honest").expect("a record");
        assert_eq!(record.len(), 100);
        steps.pass();
    }
    let _ = claim.release();
    steps.pass();
    assert!(claim.next().expect("honest").is_some());
    steps.pass();
    let _ = claim.arm().expect("honest");
    steps.pass();
    drop(claim);
    steps.pass();
}

/// How many records are released when the consumer stands at a step.
fn released_at(step: usize) -> usize {
    if step >= 4 { 2 } else { 0 }
}

const POP_STEPS: usize = 8;

#[test]
fn a_consumer_killed_at_any_step_costs_nobody_a_record() {
    for step in 0..POP_STEPS {
        let (mut producer, fd) = create(Capacity::MIN).expect("a ring");
        let consumer = Consumer::open(fd).expect("our own ring");
        for item in 0..5 {
            assert!(push(&mut producer, &[item; 100]));
        }
        let mut child = Child::spawn(step, |steps| pop_in_steps(&consumer, steps));
        assert!(child.reached(), "step {step} is never passed");
        assert!(!peer_is_gone(child.lifeline().as_fd()).expect("poll"));
        child.kill();
        assert!(peer_is_gone(child.lifeline().as_fd()).expect("poll"));

        // The producer goes on until the ring is full, and does not wait for the dead.
        let mut pushed = 5;
        while push(&mut producer, &[pushed; 100]) {
            pushed += 1;
        }
        let (_ringer, refill) = eventfd().expect("a doorbell");
        assert_eq!(producer.request_refill(100), Ok(Refill::Requested));
        let woken = refill.wait(Some(child.lifeline().as_fd()), Some(DEADLINE));
        assert_eq!(woken.expect("poll"), Woken::PeerGone);

        // Whoever shares the end takes over where the dead one stood.
        let dead = u64::try_from(child.pid().as_raw()).expect("a pid");
        let me = OwnerId::this_process();
        let mut claim = consumer
            .claim(me, |owner| owner.get() != dead)
            .expect("the dead one's claim is void");
        let left: Vec<u8> = drain(&mut claim).iter().map(|record| record[0]).collect();
        let first = u8::try_from(released_at(step)).expect("few");
        assert_eq!(
            left,
            (first..pushed).collect::<Vec<u8>>(),
            "killed at step {step}"
        );
    }
}

/// A producer that passes a step after everything it does.
fn push_in_steps(producer: &mut Producer, steps: &mut Steps) {
    steps.pass();
    for item in 0..2_u8 {
        let Ok(Reserve::Slot(mut slot)) = producer.reserve(100) else {
            panic!("room")
        };
        steps.pass();
        slot.put(&[item; 50]);
        steps.pass();
        slot.put(&[item; 50]);
        steps.pass();
        slot.commit();
        steps.pass();
        let _ = producer.publish().expect("honest");
        steps.pass();
    }
}

const PUSH_STEPS: usize = 11;

#[test]
fn a_producer_killed_at_any_step_leaves_whole_records_only() {
    for step in 0..PUSH_STEPS {
        let (mut producer, fd) = create(Capacity::MIN).expect("a ring");
        let (ringer, bell) = pipe().expect("a doorbell");
        let mut child = Child::spawn(step, |steps| push_in_steps(&mut producer, steps));
        drop(ringer);
        assert!(child.reached(), "step {step} is never passed");
        child.kill();

        let consumer = Consumer::open(fd).expect("the ring outlives its producer");
        let mut claim = claim(&consumer);
        let published = u8::try_from(step / 5).expect("few");
        let expected: Vec<Vec<u8>> = (0..published).map(|item| vec![item; 100]).collect();
        assert_eq!(drain(&mut claim), expected, "killed at step {step}");
        assert!(claim.next().expect("no half record").is_none());

        let woken = bell
            .wait(Some(child.lifeline().as_fd()), Some(DEADLINE))
            .expect("poll");
        assert_eq!(woken, Woken::PeerGone);
    }
}

#[test]
fn the_steps_cover_the_whole_of_pop_and_push() {
    let (mut producer, fd) = create(Capacity::MIN).expect("a ring");
    let mut child = Child::spawn(PUSH_STEPS, |steps| push_in_steps(&mut producer, steps));
    assert!(!child.reached(), "a step more than PUSH_STEPS");
    child.finish();
    let consumer = Consumer::open(fd).expect("the ring");
    let (mut producer, _) = create(Capacity::MIN).expect("another ring");
    let _ = push(&mut producer, b"unrelated");
    let mut claim = claim(&consumer);
    assert_eq!(drain(&mut claim).len(), 2);
    drop(claim);

    let (mut producer, fd) = create(Capacity::MIN).expect("a ring");
    let consumer = Consumer::open(fd).expect("the ring");
    for item in 0..5 {
        assert!(push(&mut producer, &[item; 100]));
    }
    let mut child = Child::spawn(POP_STEPS, |steps| pop_in_steps(&consumer, steps));
    assert!(!child.reached(), "a step more than POP_STEPS");
    child.finish();
}

#[test]
fn ringing_a_closed_pipe_says_that_the_peer_is_gone() {
    let (ringer, waiter) = pipe().expect("a doorbell");
    ringer.ring().expect("an open pipe");
    drop(waiter);
    assert!(matches!(
        ringer.ring(),
        Err(agentfs_ring::doorbell::RingError::PeerGone)
    ));
}

#[test]
fn a_doorbell_that_nobody_answers_never_blocks_who_rings() {
    for (ringer, waiter) in [eventfd().expect("a doorbell"), pipe().expect("a doorbell")] {
        for _ in 0..200_000 {
            ringer.ring().expect("rung already");
        }
        assert!(waiter.clear().expect("clear"));
        assert!(!waiter.clear().expect("clear"), "silent once cleared");
    }
}
