//! A hundred thousand records to a reader that sleeps when they begin, one publish each: what the
//! reader had better do when the ring is empty.

use core::hint::spin_loop;
use core::sync::atomic::Ordering;

use agentfs_ring::doorbell::eventfd;
use agentfs_ring::{
    ArmOutcome, Bell, Capacity, Claim, Consumer, OwnerId, Producer, Reserve, create,
};

use super::wake::{wait, watch};
use super::{Size, body, streams};
use crate::goal::Goal;
use crate::placement::Judge;
use crate::process_pair::{Page, now, run};
use crate::report::{Row, Table};
use crate::statistics::{Spread, float};

const RECORDS: u64 = 100_000;
const LEN: usize = 64;
const BELLS: usize = 6;

/// What the reader does when the ring is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Empty {
    /// Arms and sleeps.
    Sleep,
    /// Looks again and again for five microseconds, then arms and sleeps.
    Spin,
    /// Leaves the ring alone for five microseconds, looks once more, then arms and sleeps.
    BackOff,
}

pub(crate) fn tables(size: Size, judge: &mut Judge) -> Vec<Table> {
    let mut cases = Vec::new();
    for (capacity, ring) in [
        (64 << 10, "64 KiB"),
        (1 << 20, "1 MiB"),
        (16 << 20, "16 MiB"),
    ] {
        for (empty, reader) in [
            (Empty::Sleep, "sleeps at once"),
            (Empty::Spin, "spins 5 us"),
            (Empty::BackOff, "backs off 5 us"),
        ] {
            cases.push((format!("ring of {ring}, reader {reader}"), capacity, empty));
        }
    }
    let mut times = vec![Vec::new(); cases.len()];
    let mut bells = vec![Vec::new(); cases.len()];
    for _ in 0..size.rounds {
        for (index, (_, capacity, empty)) in cases.iter().enumerate() {
            let (millis, rings) = judge.fair(|| burst(*capacity, *empty));
            times[index].push(millis);
            bells[index].push(rings);
        }
    }
    let reference = vec![1.0; size.rounds];
    let rows = cases
        .iter()
        .enumerate()
        .map(|(index, (name, capacity, empty))| {
            let ratio = Spread::ratio(&times[index], &reference);
            let goal = is_advised(*capacity, *empty).then_some(2.0);
            Row::new(name.as_str(), &times[index])
                .with(Spread::of(bells[index].clone()))
                .against("1 ms", ratio, goal)
        });
    let advised = cases.iter().zip(&bells);
    let advised = advised.filter(|((_, capacity, empty), _)| is_advised(*capacity, *empty));
    let handful = advised.map(|((name, ..), bells)| {
        Goal::at_most(5.0, "doorbells", name.as_str(), Spread::of(bells.clone()))
    });
    let title = "100,000 records to a reader that sleeps, one publish each";
    let table = Table::new(title, "ms until all are popped", rows).with("doorbells");
    vec![table.and_goals(handful)]
}

/// Returns whether a reader is advised to do so.
fn is_advised(capacity: usize, empty: Empty) -> bool {
    capacity > 1 << 20 && empty == Empty::BackOff
}

/// Returns the milliseconds until all are popped, and the doorbells.
fn burst(capacity: usize, empty: Empty) -> (f64, f64) {
    let page = Page::new();
    let (ringer, waiter) = eventfd().expect("a doorbell");
    let (mut producer, fd) = create(Capacity::new(capacity).expect("a size")).expect("a ring");
    let consumer = Consumer::open(fd).expect("our own ring");
    // Once around first: a page is slow when it is touched for the first time.
    let warm = capacity as u64 / LEN as u64;
    run(
        || {
            let mut push = |records| {
                page.meet();
                let asleep = now() + 200_000;
                while now() < asleep {
                    spin_loop();
                }
                streams::mark_start(&page);
                page.word(BELLS).store(0, Ordering::Relaxed);
                produce(&mut producer, records, || {
                    page.word(BELLS).fetch_add(1, Ordering::Relaxed);
                    ringer.ring().expect("rung");
                });
            };
            push(warm);
            push(RECORDS);
        },
        || {
            let set = watch(&waiter);
            let mut claim = consumer
                .claim(OwnerId::this_process(), |_| true)
                .expect("the only consumer");
            let mut pop = |records| {
                page.meet();
                let sum = consume(&mut claim, records, empty, || {
                    wait(&set);
                    let _ = waiter.clear().expect("clear");
                });
                let end = now();
                assert_eq!(
                    sum,
                    body::expected(records, LEN as u64 / 8),
                    "records lost or torn"
                );
                end
            };
            pop(warm);
            let end = pop(RECORDS);
            let millis = streams::each(&page, end, 1) / 1e6;
            (millis, float(page.word(BELLS).load(Ordering::Relaxed)))
        },
    )
}

/// Publishes each record by itself.
fn produce(producer: &mut Producer, records: u64, mut ring: impl FnMut()) {
    let mut item = 0;
    while item < records {
        match producer.reserve(LEN).expect("honest") {
            Reserve::Slot(mut slot) => {
                body::put(&mut slot, LEN, item);
                slot.commit();
                item += 1;
                if producer.publish().expect("honest") == Bell::Ring {
                    ring();
                }
            }
            Reserve::Full => spin_loop(),
            Reserve::TooLong => unreachable!("records are short"),
        }
    }
}

/// Pops until all are there. Frees what it has read when the ring is empty, and meanwhile often
/// enough for a small ring.
fn consume(claim: &mut Claim<'_>, records: u64, empty: Empty, mut sleep: impl FnMut()) -> u64 {
    const FREE_AFTER: u64 = 256;
    let (mut sum, mut seen) = (0_u64, 0);
    while seen < records {
        while let Some(record) = claim.next().expect("honest") {
            sum = sum.wrapping_add(body::sum_of(&record));
            seen += 1;
            if seen % FREE_AFTER == 0 {
                let _: Bell = claim.release();
            }
        }
        let _: Bell = claim.release();
        let sleeps = seen < records && !linger(claim, empty);
        if sleeps && claim.arm() == Ok(ArmOutcome::MaySleep) {
            sleep();
        }
    }
    sum
}

/// Waits a little for more. True when there is.
fn linger(claim: &mut Claim<'_>, empty: Empty) -> bool {
    let until = now() + 5_000;
    match empty {
        Empty::Sleep => return false,
        Empty::Spin => {
            while now() < until {
                if claim.has_pending().expect("honest") {
                    return true;
                }
            }
        }
        Empty::BackOff => {
            while now() < until {
                spin_loop();
            }
        }
    }
    claim.has_pending().expect("honest")
}
