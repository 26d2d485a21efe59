//! One way from a process to another for each thing compared: given a number of records, the time
//! from the first push to the last pop, in nanoseconds each.

use core::hint::spin_loop;
use core::sync::atomic::Ordering;
use std::os::fd::OwnedFd;

use agentfs_ring::{Bell, Capacity, Consumer, OwnerId, Producer, Reserve, create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use super::body;
use crate::placement::pin;
use crate::process_pair::{Page, now, run};
use crate::statistics::float;

/// The word that holds when the run started.
const STARTED: usize = 2;

/// Returns the nanoseconds for each record, from the start to `end`.
pub(crate) fn each(page: &Page, end: u64, records: u64) -> f64 {
    let nanos = end.saturating_sub(page.word(STARTED).load(Ordering::Acquire));
    float(nanos) / float(records)
}

/// Returns the same, for a reader that found this sum in so many records of so many words.
pub(crate) fn finish(page: &Page, end: u64, sum: u64, (records, words): (u64, u64)) -> f64 {
    let expected = body::expected(records, words);
    assert_eq!(sum, expected, "records lost or torn");
    each(page, end, records)
}

/// Notes that the first record is pushed now.
pub(crate) fn mark_start(page: &Page) {
    page.word(STARTED).store(now(), Ordering::Release);
}

fn start(page: &Page) {
    page.meet();
    mark_start(page);
}

/// Pushes one record and publishes it.
pub(crate) fn push(producer: &mut Producer, len: usize, item: u64) -> Bell {
    commit(producer, len, item);
    producer.publish().expect("an honest consumer")
}

/// Pushes records and publishes them at once.
pub(crate) fn push_many(producer: &mut Producer, len: usize, records: u64) -> Bell {
    (0..records).for_each(|item| commit(producer, len, item));
    producer.publish().expect("an honest consumer")
}

fn commit(producer: &mut Producer, len: usize, item: u64) {
    let Reserve::Slot(mut slot) = producer.reserve(len).expect("an honest consumer") else {
        unreachable!("the reader has emptied the ring");
    };
    body::put(&mut slot, len, item);
    slot.commit();
}

/// Pushes every record, publishing after each `batch`.
pub(crate) fn produce(producer: &mut Producer, len: usize, records: u64, batch: u64) {
    let mut waiting = 0;
    let mut item = 0;
    while item < records {
        match producer.reserve(len).expect("an honest consumer") {
            Reserve::Slot(mut slot) => {
                body::put(&mut slot, len, item);
                slot.commit();
                item += 1;
                waiting += 1;
                if waiting == batch {
                    waiting = 0;
                    let _: Bell = producer.publish().expect("an honest consumer");
                }
            }
            Reserve::Full => {
                waiting = 0;
                let _: Bell = producer.publish().expect("an honest consumer");
                spin_loop();
            }
            Reserve::TooLong => unreachable!("records are short"),
        }
    }
    let _: Bell = producer.publish().expect("an honest consumer");
}

/// How often a reader pauses that found nothing, before it looks again: each look takes the cache
/// line of the tail from the writer, which then waits for it.
pub(crate) const PAUSES: u32 = 32;

fn pause(times: u32) {
    for _ in 0..times {
        spin_loop();
    }
}

/// Pops every record, and frees what it has read when there is nothing more or a
/// `batch` is full. `pauses` as for [`PAUSES`].
pub(crate) fn consume(consumer: &Consumer, records: u64, batch: u64, pauses: u32) -> u64 {
    let mut claim = consumer
        .claim(OwnerId::this_process(), |_| true)
        .expect("the only consumer");
    let (mut sum, mut seen, mut unfreed) = (0_u64, 0, 0);
    while seen < records {
        match claim.next().expect("an honest producer") {
            Some(record) => {
                sum = sum.wrapping_add(body::sum_of(&record));
                seen += 1;
                unfreed += 1;
                if unfreed == batch {
                    unfreed = 0;
                    let _: Bell = claim.release();
                }
            }
            None => {
                unfreed = 0;
                let _: Bell = claim.release();
                pause(pauses);
            }
        }
    }
    let _: Bell = claim.release();
    sum
}

/// Measures our ring between two processes.
pub(crate) fn ring(capacity: usize, len: usize, records: u64, batch: u64, pauses: u32) -> f64 {
    let page = Page::new();
    let capacity = Capacity::new(capacity).expect("a power of two");
    let (mut producer, fd) = create(capacity).expect("a ring");
    let consumer = Consumer::open(fd).expect("our own ring");
    let words = len as u64 / 8;
    run(
        || {
            start(&page);
            produce(&mut producer, len, records, batch);
        },
        || {
            page.meet();
            let sum = consume(&consumer, records, 64, pauses);
            finish(&page, now(), sum, (records, words))
        },
    )
}

/// Measures rtrb between two threads, one record at a time.
pub(crate) fn rtrb_single<const WORDS: usize>(records: u64, pauses: u32) -> f64 {
    let page = Page::new();
    let (mut producer, mut consumer) = rtrb::RingBuffer::<[u64; WORDS]>::new(4096);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(0);
            start(&page);
            for item in 0..records {
                let mut record = body::array(item);
                while let Err(rtrb::PushError::Full(back)) = producer.push(record) {
                    record = back;
                    spin_loop();
                }
            }
        });
        pin(1);
        page.meet();
        let mut sum = 0_u64;
        for _ in 0..records {
            let record = loop {
                match consumer.pop() {
                    Ok(record) => break record,
                    Err(rtrb::PopError::Empty) => pause(pauses),
                }
            };
            sum = sum.wrapping_add(body::sum_array(&record));
        }
        finish(&page, now(), sum, (records, WORDS as u64))
    })
}

/// Measures rtrb between two threads, copied in and out by slices of 64.
pub(crate) fn rtrb_slices<const WORDS: usize>(records: u64) -> f64 {
    const BATCH: usize = 64;
    let page = Page::new();
    let (mut producer, mut consumer) = rtrb::RingBuffer::<[u64; WORDS]>::new(4096);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(0);
            start(&page);
            let mut item = 0;
            while item < records {
                let batch: [[u64; WORDS]; BATCH] =
                    core::array::from_fn(|index| body::array(item + index as u64));
                let left = usize::try_from(records - item).unwrap_or(BATCH).min(BATCH);
                let mut rest = &batch[..left];
                while !rest.is_empty() {
                    (_, rest) = producer.push_partial_slice(rest);
                }
                item += left as u64;
            }
        });
        pin(1);
        page.meet();
        let mut batch = [[0_u64; WORDS]; BATCH];
        let (mut sum, mut seen) = (0_u64, 0);
        while seen < records {
            let (filled, _) = consumer.pop_partial_slice(&mut batch);
            seen += filled.len() as u64;
            sum = filled
                .iter()
                .fold(sum, |sum, record| sum.wrapping_add(body::sum_array(record)));
        }
        finish(&page, now(), sum, (records, WORDS as u64))
    })
}

/// Measures a pipe, one record a call.
pub(crate) fn pipe(len: usize, records: u64) -> f64 {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let _ = rustix::pipe::fcntl_setpipe_size(&write, 1 << 20);
    by_descriptor(&write, &read, len, records)
}

/// Measures a SEQPACKET socket, one record a call.
pub(crate) fn seqpacket(len: usize, records: u64) -> f64 {
    let kind = SocketType::SEQPACKET;
    let (one, two) =
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("sockets");
    by_descriptor(&one, &two, len, records)
}

fn by_descriptor(write: &OwnedFd, read: &OwnedFd, len: usize, records: u64) -> f64 {
    let page = Page::new();
    run(
        || {
            start(&page);
            let mut record = vec![0; len];
            for item in 0..records {
                body::fill(&mut record, item);
                assert_eq!(rustix::io::write(write, &record), Ok(len));
            }
        },
        || {
            page.meet();
            let mut record = vec![0; len];
            let mut sum = 0_u64;
            for _ in 0..records {
                let mut have = 0;
                while have < len {
                    have += rustix::io::read(read, &mut record[have..]).expect("a record");
                }
                sum = sum.wrapping_add(body::sum(&record));
            }
            finish(&page, now(), sum, (records, len as u64 / 8))
        },
    )
}
