//! A reader that is woken and fetches what there is: from the ring, or by asking over a socket.

use core::sync::atomic::Ordering;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use agentfs_ring::doorbell::eventfd;
use agentfs_ring::{ArmOutcome, Bell, Capacity, Consumer, OwnerId, create};

use super::wake::{done, ring_slowly, wait, watch};
use super::{Size, body, streams};
use crate::placement::Judge;
use crate::process_pair::{Page, now, run};
use crate::report::{Row, Table};
use crate::statistics::{Spread, micros, percentile};

const RUNG_AT: usize = 4;
const LEN: usize = 64;

pub(crate) fn tables(size: Size, judge: &mut Judge) -> Vec<Table> {
    let counts = [1, 64, 1024];
    let mut times: Vec<[Vec<f64>; 2]> = counts.iter().map(|_| [Vec::new(), Vec::new()]).collect();
    for _ in 0..size.rounds {
        for (count, times) in counts.iter().zip(&mut times) {
            for (ask, times) in [socket, ring].into_iter().zip(times) {
                let mut samples = judge.fair(|| ask(size.wakes / 2, *count));
                times.push(micros(percentile(&mut samples, 0.5)));
            }
        }
    }
    let mut rows = Vec::new();
    for (count, [socket, ring]) in counts.iter().zip(times) {
        let reference = format!("socket, request and response, {count} records");
        let ratio = Spread::ratio(&ring, &socket);
        let goal = (*count < 1024).then_some(0.37);
        rows.push(Row::new(reference.as_str(), &socket));
        rows.push(
            Row::new(format!("ring, {count} records"), &ring).against(reference, ratio, goal),
        );
    }
    let unit = "p50 from the bell to the last record, us";
    vec![Table::new(
        "A woken reader fetches what there is",
        unit,
        rows,
    )]
}

fn ring(wakes: u64, count: u64) -> Vec<u64> {
    let page = Page::new();
    let (ringer, waiter) = eventfd().expect("a doorbell");
    let (mut producer, fd) = create(Capacity::new(256 << 10).expect("a size")).expect("a ring");
    let consumer = Consumer::open(fd).expect("our own ring");
    run(
        || {
            ring_slowly(&page, wakes, |_| {
                page.word(RUNG_AT).store(now(), Ordering::Release);
                if streams::push_many(&mut producer, LEN, count) == Bell::Ring {
                    ringer.ring().expect("rung");
                }
            });
        },
        || {
            let set = watch(&waiter);
            let mut claim = consumer
                .claim(OwnerId::this_process(), |_| true)
                .expect("the only consumer");
            assert_eq!(claim.arm(), Ok(ArmOutcome::MaySleep));
            page.meet();
            let mut samples = Vec::new();
            for wake in 1..=wakes {
                wait(&set);
                assert!(waiter.clear().expect("clear"));
                let mut sum = 0_u64;
                while let Some(record) = claim.next().expect("honest") {
                    sum = sum.wrapping_add(body::sum_of(&record));
                }
                samples.push(now() - page.word(RUNG_AT).load(Ordering::Acquire));
                assert_eq!(
                    sum,
                    body::expected(count, LEN as u64 / 8),
                    "records lost or torn"
                );
                let _: Bell = claim.release();
                assert_eq!(claim.arm(), Ok(ArmOutcome::MaySleep));
                done(&page).store(wake, Ordering::Release);
            }
            samples
        },
    )
}

/// Measures the same with the records in the daemon's memory, fetched by a request over a stream socket.
fn socket(wakes: u64, count: u64) -> Vec<u64> {
    let page = Page::new();
    let (ringer, waiter) = eventfd().expect("a doorbell");
    let (mut daemon, mut app) = UnixStream::pair().expect("sockets");
    let len = usize::try_from(count).expect("few") * LEN;
    run(
        || {
            let mut records = vec![0_u8; 8 + len];
            ring_slowly(&page, wakes, |_| {
                page.word(RUNG_AT).store(now(), Ordering::Release);
                records[..8].copy_from_slice(&count.to_ne_bytes());
                for (item, record) in (0..).zip(records[8..].chunks_exact_mut(LEN)) {
                    body::fill(record, item);
                }
                ringer.ring().expect("rung");
                let mut request = [0; 16];
                daemon.read_exact(&mut request).expect("a request");
                daemon.write_all(&records).expect("a response");
            });
        },
        || {
            let set = watch(&waiter);
            page.meet();
            let mut samples = Vec::new();
            let mut records = vec![0_u8; 8 + len];
            for wake in 1..=wakes {
                wait(&set);
                assert!(waiter.clear().expect("clear"));
                app.write_all(&[1; 16]).expect("a request");
                app.read_exact(&mut records).expect("a response");
                let sum = records[8..]
                    .chunks_exact(LEN)
                    .fold(0_u64, |sum, record| sum.wrapping_add(body::sum(record)));
                samples.push(now() - page.word(RUNG_AT).load(Ordering::Acquire));
                assert_eq!(
                    sum,
                    body::expected(count, LEN as u64 / 8),
                    "records lost or torn"
                );
                done(&page).store(wake, Ordering::Release);
            }
            samples
        },
    )
}
