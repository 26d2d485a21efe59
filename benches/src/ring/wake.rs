//! From the publish of one record to the moment at which a reader that slept holds it.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};
use std::os::fd::{AsFd, OwnedFd};

use agentfs_ring::doorbell::eventfd;
use agentfs_ring::{ArmOutcome, Bell, Capacity, Consumer, OwnerId, create};
use rustix::event::epoll;

use super::{Size, streams};
use crate::placement::{Judge, pin};
use crate::process_pair::{Other, Page, now, run, set_idle_priority};
use crate::report::{Row, Table};
use crate::statistics::{Spread, micros, percentile};

/// Between one wake-up and the next, so that the reader sleeps again.
const PAUSE: u64 = 50_000;

/// How far the reader has come.
const DONE: usize = 3;
/// When the last bell was rung.
const RUNG_AT: usize = 4;
/// Whether the burners are to stop.
const STOP: usize = 5;

/// A name, and what takes that many samples in nanoseconds.
type Case = (&'static str, fn(u64) -> Vec<u64>);

pub(crate) fn tables(size: Size, judge: &mut Judge) -> Vec<Table> {
    vec![
        table("cores idle", false, size, judge),
        table("cores kept busy", true, size, judge),
    ]
}

fn table(how: &str, busy: bool, size: Size, judge: &mut Judge) -> Table {
    let cases: [Case; 2] = [
        ("eventfd + epoll_wait + read", bare),
        ("record + eventfd + epoll_wait + read + pop", ring),
    ];
    let mut halves = [Vec::new(), Vec::new()];
    let mut tails = [Vec::new(), Vec::new()];
    for _ in 0..size.rounds {
        for (index, (_, case)) in cases.iter().enumerate() {
            let mut samples = judge.fair(|| with_burners(busy, || case(size.wakes)));
            halves[index].push(micros(percentile(&mut samples, 0.5)));
            tails[index].push(micros(percentile(&mut samples, 0.99)));
        }
    }
    let rows = cases.iter().enumerate().map(|(index, (name, _))| {
        let row = Row::new(*name, &halves[index]).with(Spread::of(tails[index].clone()));
        if index == 0 {
            return row;
        }
        let ratio = Spread::ratio(&halves[index], &halves[0]);
        row.against("bare eventfd, p50", ratio, Some(1.03))
    });
    let title = format!("Waking a reader that sleeps, {how}");
    Table::new(title, "p50, us", rows).with("p99, us")
}

/// Keeps both cores from halting with processes that run only when nothing else wants to.
fn with_burners<T>(busy: bool, run: impl FnOnce() -> T) -> T {
    if !busy {
        return run();
    }
    let page = Page::new();
    let burn = |core: usize| {
        let page = &page;
        Other::start(move || {
            pin(core);
            set_idle_priority();
            while page.word(STOP).load(Ordering::Relaxed) == 0 {
                spin_loop();
            }
        })
    };
    let burners = [burn(0), burn(1)];
    let result = run();
    page.word(STOP).store(1, Ordering::Relaxed);
    burners.into_iter().for_each(Other::join);
    result
}

/// Makes an epoll set of one descriptor.
pub(crate) fn watch(fd: impl AsFd) -> OwnedFd {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll set");
    epoll::add(
        &set,
        fd,
        epoll::EventData::new_u64(0),
        epoll::EventFlags::IN,
    )
    .expect("watched");
    set
}

/// Sleeps until the descriptor is readable.
pub(crate) fn wait(set: &OwnedFd) {
    let mut events = [epoll::Event {
        flags: epoll::EventFlags::empty(),
        data: epoll::EventData::new_u64(0),
    }];
    while epoll::wait(set, &mut events, None) == Err(rustix::io::Errno::INTR) {}
}

/// Rings at a distance of [`PAUSE`], each time after the reader has taken the last one.
pub(crate) fn ring_slowly(page: &Page, wakes: u64, mut ring: impl FnMut(u64)) {
    page.meet();
    for wake in 0..wakes {
        let until = now() + PAUSE;
        while now() < until || page.word(DONE).load(Ordering::Acquire) < wake {
            spin_loop();
        }
        ring(wake);
    }
}

pub(crate) fn done(page: &Page) -> &AtomicU64 {
    page.word(DONE)
}

fn bare(wakes: u64) -> Vec<u64> {
    let page = Page::new();
    let (ringer, waiter) = eventfd().expect("a doorbell");
    run(
        || {
            ring_slowly(&page, wakes, |_| {
                page.word(RUNG_AT).store(now(), Ordering::Release);
                ringer.ring().expect("rung");
            });
        },
        || {
            let set = watch(&waiter);
            page.meet();
            let mut samples = Vec::new();
            for wake in 1..=wakes {
                wait(&set);
                assert!(waiter.clear().expect("clear"));
                samples.push(now() - page.word(RUNG_AT).load(Ordering::Acquire));
                done(&page).store(wake, Ordering::Release);
            }
            samples
        },
    )
}

fn ring(wakes: u64) -> Vec<u64> {
    let page = Page::new();
    let (ringer, waiter) = eventfd().expect("a doorbell");
    let (mut producer, fd) = create(Capacity::DEFAULT).expect("a ring");
    let consumer = Consumer::open(fd).expect("our own ring");
    run(
        || {
            ring_slowly(&page, wakes, |_| {
                page.word(RUNG_AT).store(now(), Ordering::Release);
                if streams::push(&mut producer, 64, now()) == Bell::Ring {
                    ringer.ring().expect("rung");
                }
            });
        },
        || {
            let set = watch(&waiter);
            let me = OwnerId::this_process();
            let mut claim = consumer.claim(me, |_| true).expect("the only consumer");
            assert_eq!(claim.arm(), Ok(ArmOutcome::MaySleep));
            page.meet();
            let mut samples = Vec::new();
            for wake in 1..=wakes {
                wait(&set);
                assert!(waiter.clear().expect("clear"));
                let record = claim.next().expect("honest").expect("rung for a record");
                assert_eq!(record.len(), 64);
                samples.push(now() - page.word(RUNG_AT).load(Ordering::Acquire));
                let _: Bell = claim.release();
                assert_eq!(claim.arm(), Ok(ArmOutcome::MaySleep));
                done(&page).store(wake, Ordering::Release);
            }
            samples
        },
    )
}
