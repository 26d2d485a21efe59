//! What a sync waits for, and with whom it is shared.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use agentfs_testkit::child::PATIENCE;

use super::machine::{Machine, SIZES, append};
use crate::log::Content;
use crate::log::rounds::Rounds;
use crate::model::errno::{Errno, Result};
use crate::sync::Mutex;

/// Content whose sync lasts until the test lets it go on.
#[derive(Debug)]
struct SlowContent {
    begun: Sender<()>,
    go_on: Mutex<Receiver<Result<()>>>,
    syncs: AtomicUsize,
}

impl Content for SlowContent {
    fn covered(&self) {}

    fn count_records(&self, count: &mut dyn FnMut()) {
        count();
    }

    fn sync(&self) -> Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.begun.send(()).unwrap();
        self.go_on.lock().recv_timeout(PATIENCE).unwrap()
    }
}

fn slow() -> (Arc<SlowContent>, Receiver<()>, Sender<Result<()>>) {
    let ((begun, has_begun), (go_on, may_go_on)) = (channel(), channel());
    let content = SlowContent {
        begun,
        go_on: Mutex::new(may_go_on),
        syncs: AtomicUsize::new(0),
    };
    (Arc::new(content), has_begun, go_on)
}

#[test]
fn record_that_comes_while_a_sync_runs_waits_for_the_next_one() {
    let mut machine = Machine::new(1);
    let (content, has_begun, go_on) = slow();
    let recovery = machine.recover(1).unwrap();
    let log = recovery.into_log(content.clone(), SIZES).unwrap();
    append(&log, b"a").unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| log.sync());
        has_begun.recv_timeout(PATIENCE).unwrap();
        append(&log, b"b").unwrap();
        let second = scope.spawn(|| log.sync());
        go_on.send(Ok(())).unwrap();
        first.join().unwrap().unwrap();
        has_begun.recv_timeout(PATIENCE).unwrap();
        go_on.send(Ok(())).unwrap();
        second.join().unwrap().unwrap();
    });
    assert_eq!(content.syncs.load(Ordering::SeqCst), 2);
    machine.cut_power();
    assert_eq!(machine.payloads(1), [b"a", b"b"]);
}

#[test]
fn marker_does_not_cover_what_came_after_the_content_was_synced() {
    let mut machine = Machine::new(1);
    let (content, has_begun, go_on) = slow();
    let recovery = machine.recover(1).unwrap();
    let log = recovery.into_log(content, SIZES).unwrap();
    append(&log, b"a").unwrap();
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| log.sync());
        has_begun.recv_timeout(PATIENCE).unwrap();
        append(&log, b"b").unwrap();
        go_on.send(Ok(())).unwrap();
        sync.join().unwrap().unwrap();
    });
    machine.cut_power();
    let recovery = machine.recover(1).unwrap();
    assert_eq!(
        (recovery.next, recovery.dropped),
        (2, 2),
        "b and the marker"
    );
}

#[test]
fn sync_has_nothing_to_do_where_nothing_was_appended() {
    let machine = Machine::new(1);
    let (content, has_begun, go_on) = slow();
    let recovery = machine.recover(1).unwrap();
    let log = recovery.into_log(content.clone(), SIZES).unwrap();
    log.sync().unwrap();
    append(&log, b"a").unwrap();
    go_on.send(Ok(())).unwrap();
    log.sync().unwrap();
    has_begun.recv_timeout(PATIENCE).unwrap();
    log.sync().unwrap();
    assert_eq!(content.syncs.load(Ordering::SeqCst), 1);
}

#[test]
fn content_that_cannot_be_synced_ends_the_log() {
    let machine = Machine::new(1);
    let (content, _has_begun, go_on) = slow();
    let recovery = machine.recover(1).unwrap();
    let log = recovery.into_log(content, SIZES).unwrap();
    append(&log, b"a").unwrap();
    go_on.send(Err(Errno::ENOSPC)).unwrap();
    assert_eq!(log.sync(), Err(Errno::ENOSPC));
    assert_eq!(append(&log, b"b"), Err(Errno::EROFS));
    assert_eq!(log.sync(), Err(Errno::EIO));
}

#[test]
fn threads_that_wait_share_the_next_round() {
    let rounds = Rounds::new();
    let work = AtomicUsize::new(0);
    let count = || {
        work.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let ((begun, has_begun), (go_on, may_go_on)) = (channel(), channel());
    std::thread::scope(|scope| {
        let (rounds, count) = (&rounds, &count);
        scope.spawn(move || {
            let first = rounds.join(|| {
                begun.send(()).unwrap();
                may_go_on.recv_timeout(PATIENCE).unwrap();
                Ok(())
            });
            first.unwrap();
        });
        has_begun.recv_timeout(PATIENCE).unwrap();
        for _ in 0..8 {
            scope.spawn(move || rounds.join(count).unwrap());
        }
        assert!(rounds.has_waiters(8, PATIENCE));
        go_on.send(()).unwrap();
    });
    assert_eq!(work.load(Ordering::SeqCst), 1);
}

#[test]
fn all_who_share_a_round_hear_of_its_failure() {
    let rounds = Rounds::new();
    assert_eq!(rounds.join(|| Err(Errno::EIO)), Err(Errno::EIO));
    assert_eq!(rounds.join(|| Ok(())), Ok(()));
}

#[test]
fn what_many_threads_have_synced_is_there_after_a_power_cut() {
    let mut machine = Machine::new(1);
    let log = machine.log(1);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let log = &log;
            scope.spawn(move || {
                for round in 0..50 {
                    append(log, &[thread, round]).unwrap();
                    log.sync().unwrap();
                    if round % 16 == 0 {
                        log.rotate().unwrap();
                    }
                }
            });
        }
    });
    drop(log);
    machine.cut_power();
    let mut payloads = machine.payloads(1);
    let of_one: Vec<Vec<u8>> = payloads.iter().filter(|it| it[0] == 2).cloned().collect();
    assert!(of_one.is_sorted(), "each thread's records are in its order");
    payloads.sort();
    payloads.dedup();
    assert_eq!(payloads.len(), 200);
}
