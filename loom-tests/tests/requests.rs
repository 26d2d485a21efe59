//! Tests the request channel: under `--cfg loom` every interleaving of two requests up to a bound on preemptions, otherwise
//! thousands of requests between threads over real shared memory.

use core::num::NonZeroU64;

use agentfs_ring::OwnerId;
use agentfs_ring::requests::{RequestReader, RequestWriter, Sent};

#[cfg(loom)]
mod world {
    pub(crate) use agentfs_ring::requests::in_process;
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
    pub(crate) use loom::thread::{spawn, yield_now};

    pub(crate) const ITEMS: u64 = 3;
    pub(crate) const TRIES: u64 = 3;

    pub(crate) fn model(body: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(4));
        builder.check(body);
    }
}

#[cfg(not(loom))]
mod world {
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
    pub(crate) use std::thread::{spawn, yield_now};

    use agentfs_ring::requests::{RequestReader, RequestWriter, create};

    pub(crate) const ITEMS: u64 = 20_000;
    pub(crate) const TRIES: u64 = u64::MAX;

    pub(crate) fn in_process(_slots: usize) -> (RequestReader, RequestWriter) {
        let (reader, fd) = create().expect("a channel");
        (reader, RequestWriter::open(fd).expect("its other end"))
    }

    pub(crate) fn model(body: impl Fn() + Send + Sync + 'static) {
        for _ in 0..50 {
            body();
        }
    }
}

use world::{Arc, AtomicU64, ITEMS, Ordering, TRIES, in_process, model, spawn, yield_now};

fn owner(id: u64) -> OwnerId {
    OwnerId::new(NonZeroU64::new(id).expect("not zero"))
}

/// Sends until the request is accepted, or until patience ends.
fn send(writer: &RequestWriter, id: u64, item: u64) -> bool {
    for _ in 0..TRIES {
        match writer.send([id, item, !item, item], owner(id), |_| true) {
            Sent::Sent => return true,
            Sent::Full | Sent::Busy => yield_now(),
            Sent::Reentered => panic!("one thread, one send"),
        }
    }
    false
}

/// Reads the whole next request.
fn next(reader: &mut RequestReader) -> Option<(u64, u64)> {
    let [id, item, not_item, again] = reader.next().expect("an honest program")?;
    assert_eq!((not_item, again), (!item, item), "a torn request");
    Some((id, item))
}

#[test]
fn requests_arrive_whole_and_in_order_over_slots_used_again() {
    model(|| {
        let (mut reader, writer) = in_process(2);
        let program = spawn(move || {
            (0..ITEMS)
                .take_while(|item| send(&writer, 1, *item))
                .count()
        });
        let mut expected = 0;
        for _ in 0..TRIES {
            if let Some((_, item)) = next(&mut reader) {
                assert_eq!(item, expected);
                expected += 1;
            } else if expected == ITEMS {
                break;
            } else {
                yield_now();
            }
        }
        let sent = program.join().expect("the program") as u64;
        while let Some((_, item)) = next(&mut reader) {
            assert_eq!(item, expected);
            expected += 1;
        }
        assert_eq!(sent, expected, "a request lost or repeated");
    });
}

#[test]
fn two_threads_of_a_program_send_without_losing_a_request() {
    model(|| {
        let (mut reader, writer) = in_process(4);
        let writer = Arc::new(writer);
        let threads = [1, 2].map(|id| {
            let writer = writer.clone();
            spawn(move || send(&writer, id, id))
        });
        let sent = threads.map(|thread| thread.join().expect("a thread"));
        let mut seen = [false; 2];
        while let Some((id, _)) = next(&mut reader) {
            let index = usize::try_from(id - 1).expect("one of two");
            assert!(
                !core::mem::replace(&mut seen[index], true),
                "a request twice"
            );
        }
        assert_eq!(seen, sent);
    });
}

#[test]
fn a_program_that_missed_a_change_has_its_request_found() {
    model(|| {
        let (reader, writer) = in_process(2);
        let file = Arc::new(AtomicU64::new(0));
        let program = spawn({
            let file = file.clone();
            move || {
                assert!(send(&writer, 1, 0));
                file.load(Ordering::Relaxed)
            }
        });
        file.store(1, Ordering::Relaxed);
        let found = reader.has_pending();
        let seen = program.join().expect("the program");
        assert!(
            seen == 1 || found,
            "neither the change seen nor the request found"
        );
    });
}
