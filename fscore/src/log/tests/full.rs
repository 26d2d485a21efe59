//! A full disk, and one that fails.

use std::sync::atomic::Ordering;

use super::machine::{KIND, Machine, SIZES, append};
use crate::disk::simulated::Fault;
use crate::log::{Log, Purpose};
use crate::model::errno::{Errno, Result};

/// Appends until the disk is full, and returns how many records there was room for.
fn fill(log: &Log, purpose: Purpose) -> usize {
    let one = || -> Result<u64> { log.append(log.reserve(purpose)?, KIND, &[1; 100]) };
    let results = std::iter::repeat_with(one);
    let done = results.map_while(|it| it.map_err(|errno| assert_eq!(errno, Errno::ENOSPC)).ok());
    done.count()
}

#[test]
fn full_disk_is_found_before_the_operation_and_freeing_operations_have_room_left() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    machine.disk.leave_free(2 * 4096);
    let ordinary = fill(&log, Purpose::Ordinary);
    assert!(ordinary > 50, "{ordinary}");
    let freeing = fill(&log, Purpose::Freeing);
    assert!(freeing >= 6, "{freeing}");
    assert_eq!(log.failure().map(|it| it.errno), None);
    log.sync().unwrap();

    machine.disk.leave_free(1 << 30);
    append(&log, b"there is room again").unwrap();
    machine.kill();
    assert_eq!(machine.payloads(1).len(), ordinary + freeing + 1);
}

#[test]
fn room_that_is_promised_is_taken_by_nobody_else() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    machine.disk.leave_free(0);
    let room = log.reserve(Purpose::Ordinary).unwrap();
    fill(&log, Purpose::Freeing);
    while log.sync().is_ok() && append(&log, b"").is_ok() {}
    let part = usize::try_from(SIZES.room).unwrap() - 17;
    log.append(room, KIND, &vec![2; part]).unwrap();
    machine.kill();
    assert_eq!(machine.payloads(1).last(), Some(&vec![2; part]));
}

#[test]
fn content_is_not_covered_by_a_sync_that_found_no_room() {
    let machine = Machine::new(1);
    let data = machine.data().unwrap();
    let log = machine.recover(1).unwrap();
    let log = log.into_log(data.clone(), SIZES).unwrap();
    machine.disk.leave_free(0);
    let rooms: Vec<_> = std::iter::from_fn(|| log.reserve(Purpose::Freeing).ok()).collect();
    let mut rooms = rooms.into_iter();
    while log.sync().is_ok() {
        // One room becomes free with each record, and it is filled by that.
        let part = usize::try_from(SIZES.room).unwrap() - 17;
        log.append(rooms.next().unwrap(), KIND, &vec![5; part])
            .unwrap();
    }
    let [counted, covered] = data.rounds.each_ref().map(|it| it.load(Ordering::SeqCst));
    assert_eq!(log.sync(), Err(Errno::ENOSPC));
    let [again, still] = data.rounds.each_ref().map(|it| it.load(Ordering::SeqCst));
    assert_eq!((again, still), (counted + 1, covered));
    assert!(covered < counted);
    drop(rooms);
    machine.disk.leave_free(1 << 20);
    log.sync().unwrap();
    assert_eq!(data.rounds[1].load(Ordering::SeqCst), covered + 1);
}

#[test]
fn room_that_is_not_used_is_given_back() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    machine.disk.leave_free(0);
    for _ in 0..1000 {
        drop(log.reserve(Purpose::Ordinary).unwrap());
    }
}

#[test]
fn record_for_which_the_disk_is_too_full_leaves_nothing() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    append(&log, b"before").unwrap();
    machine.disk.leave_free(4096);
    assert_eq!(append(&log, &vec![3; 100_000]), Err(Errno::ENOSPC));
    machine.disk.leave_free(1 << 30);
    append(&log, b"after").unwrap();
    append(&log, &vec![4; 100_000]).unwrap();
    log.sync().unwrap();
    machine.kill();
    let expected = [b"before".to_vec(), b"after".to_vec(), vec![4; 100_000]];
    assert_eq!(machine.payloads(1), expected);
}

#[test]
fn checkpoint_on_a_full_disk_fails_and_the_log_goes_on() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    append(&log, b"a").unwrap();
    machine.disk.leave_free(4096);
    assert_eq!(log.rotate(), Err(Errno::ENOSPC));
    append(&log, b"b").unwrap();
    assert_eq!(machine.segments(), ["log-0000000000000001"]);
    machine.kill();
    assert_eq!(machine.payloads(1), [b"a", b"b"]);
}

#[test]
fn log_is_read_only_after_the_disk_has_failed_once_and_says_why() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    append(&log, b"a").unwrap();
    let room = log.reserve(Purpose::Ordinary).unwrap();
    machine.disk.fail_after(0, Fault::Error);
    assert_eq!(append(&log, b"b"), Err(Errno::EIO));
    assert_eq!(append(&log, b"c"), Err(Errno::EROFS));
    assert_eq!(log.append(room, KIND, b"d"), Err(Errno::EROFS));
    assert_eq!(log.rotate(), Err(Errno::EROFS));
    assert_eq!(log.sync(), Err(Errno::EIO));
    let failure = log.failure().unwrap().to_string();
    assert!(failure.contains("write a record"), "{failure}");

    machine.kill();
    assert_eq!(machine.payloads(1)[0], b"a");
    let log = machine.log(1);
    append(&log, b"the disk works again").unwrap();
}

#[test]
fn sync_that_failed_is_not_tried_again() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    append(&log, b"a").unwrap();
    machine.disk.fail_after(0, Fault::Error);
    assert_eq!(log.sync(), Err(Errno::EIO));
    assert_eq!(log.sync(), Err(Errno::EIO));
    assert_eq!(append(&log, b"b"), Err(Errno::EROFS));
    let failure = log.failure().unwrap().to_string();
    assert!(failure.contains("sync the content"), "{failure}");
}
