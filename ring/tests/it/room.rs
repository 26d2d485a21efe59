//! Full, refill and coalesce, step by step.

use agentfs_ring::{ArmOutcome, Bell, Capacity, Refill, Reserve, heap};

use crate::support::{claim, push};

#[test]
fn a_full_ring_is_an_outcome_and_loses_nothing() {
    let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
    let mut pushed = 0_u8;
    while push(&mut producer, &[pushed; 120]) {
        pushed += 1;
    }
    assert_eq!(pushed, 32);
    let mut claim = claim(&consumer);
    for item in 0..pushed {
        assert_eq!(
            claim.next().expect("honest").expect("a record").to_vec(),
            [item; 120]
        );
    }
}

#[test]
fn a_record_of_half_the_ring_fits_wherever_an_empty_ring_starts() {
    for start in (0..4096).step_by(8) {
        let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
        let mut claim = claim(&consumer);
        for len in [start / 2, start - start / 2] {
            if len >= 8 {
                assert!(push(&mut producer, &vec![0; (len - 8) & !7]));
                assert!(claim.next().expect("honest").is_some());
                let _ = claim.release();
            }
        }
        let longest = producer.max_record();
        assert_eq!(longest, 2040);
        assert!(push(&mut producer, &vec![9; longest]), "from {start}");
        assert_eq!(
            claim.next().expect("honest").expect("a record").len(),
            longest
        );
        assert!(matches!(
            producer.reserve(longest + 1),
            Ok(Reserve::TooLong)
        ));
        assert!(matches!(producer.reserve(usize::MAX), Ok(Reserve::TooLong)));
    }
}

#[test]
fn a_consumer_rings_back_once_when_half_of_the_ring_is_free() {
    let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
    while push(&mut producer, &[1; 120]) {}
    assert_eq!(producer.request_refill(120), Ok(Refill::Requested));
    let mut claim = claim(&consumer);
    let mut rings = Vec::new();
    for popped in 1..=32 {
        assert!(claim.next().expect("honest").is_some());
        if claim.release() == Bell::Ring {
            rings.push(popped);
        }
    }
    assert_eq!(rings, [16]);
}

#[test]
fn room_that_came_before_the_request_is_seen() {
    let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
    while push(&mut producer, &[1; 120]) {}
    let mut claim = claim(&consumer);
    assert!(claim.next().expect("honest").is_some());
    assert_eq!(claim.release(), Bell::Quiet);
    assert_eq!(producer.request_refill(120), Ok(Refill::SpaceNow));
    assert_eq!(producer.request_refill(1000), Ok(Refill::Requested));
}

#[test]
fn an_arm_is_rung_once_and_only_when_passed() {
    let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
    let mut claim = claim(&consumer);
    assert_eq!(claim.arm(), Ok(ArmOutcome::MaySleep));
    assert_eq!(producer.publish(), Ok(Bell::Quiet), "nothing was committed");
    for (item, bell) in [(0, Bell::Ring), (1, Bell::Quiet)] {
        let Ok(Reserve::Slot(slot)) = producer.reserve(item) else {
            panic!("room")
        };
        slot.commit();
        assert_eq!(producer.publish(), Ok(bell));
    }
    assert_eq!(claim.arm(), Ok(ArmOutcome::WorkPending));
}

#[test]
fn a_record_is_unread_until_it_is_released() {
    let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
    let Ok(Reserve::Slot(slot)) = producer.reserve(8) else {
        panic!("room")
    };
    let first = slot.commit();
    let _ = producer.publish();
    assert_eq!(producer.is_unread(first), Ok(true));
    let mut claim = claim(&consumer);
    assert_eq!(
        claim.next().expect("honest").expect("a record").position(),
        first
    );
    assert_eq!(producer.is_unread(first), Ok(true));
    let _ = claim.release();
    assert_eq!(producer.is_unread(first), Ok(false));
}

#[test]
fn a_dropped_reservation_gives_its_room_back() {
    let (mut producer, consumer) = heap(Capacity::MIN).expect("memory");
    for _ in 0..1000 {
        let Ok(Reserve::Slot(mut slot)) = producer.reserve(2000) else {
            panic!("room")
        };
        slot.put(&[1; 2000]);
    }
    assert!(push(&mut producer, b"the only one"));
    let mut claim = claim(&consumer);
    assert_eq!(
        claim.next().expect("honest").expect("a record").to_vec(),
        b"the only one"
    );
    assert!(claim.next().expect("honest").is_none());
}

/// A pipe that holds more than one look takes: what a peer that rings without end makes of it.
#[test]
#[cfg(target_os = "linux")]
fn bell_that_rings_without_end_holds_nobody() {
    use agentfs_ring::doorbell::{BellKind, Waiter};

    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).expect("a pipe");
    let size = rustix::pipe::fcntl_setpipe_size(&write, 1 << 20).expect("a large pipe");
    while rustix::io::write(&write, &[1; 4096]).is_ok() {}
    let waiter = Waiter::from_fd(read, BellKind::Pipe);
    assert!(waiter.clear().expect("clear"));
    let left = rustix::io::ioctl_fionread(&waiter).expect("what is left");
    assert!(
        left > 0 && left < u64::try_from(size).expect("a size"),
        "{left} of {size}"
    );
    while waiter.clear().expect("clear") {}
    assert_eq!(rustix::io::ioctl_fionread(&waiter).expect("nothing"), 0);
}
