//! Does an event cost more when there are more watches?

use std::sync::Arc;

use crate::report::table::{Ratio, Row, Table};
use crate::statistics::Spread;
use agentfs_core::event::{Envelope, EventSink as _};
use agentfs_core::id::NodeId;
use agentfs_engine::Api;
use agentfs_engine::synth::inotify::IN_CREATE;

use super::Effort;
use crate::Failure;
use crate::engine::{Reader, Rig, created, per};

/// Events between two looks of the reader; they fit the ring.
const BATCH: usize = 2000;
const RING: usize = 1 << 20;
/// Where the numbers of watched directories begin.
const FIRST: u64 = 1000;

/// Delivers the events in turns, in batches between which the reader pops; nanoseconds of each.
fn deliver(rig: &Rig, reader: &Reader, events: &[Envelope], count: usize) -> Result<f64, Failure> {
    let (mut nanos, mut records) = (0.0, 0);
    let mut next = events.iter().cycle();
    for _ in 0..count / BATCH {
        let batch = next.by_ref().take(BATCH);
        let (each, ()) = per(BATCH, || {
            for event in batch {
                rig.service.on_envelope(event);
            }
            Ok(())
        })?;
        nanos += each;
        records += reader.drain(&rig.service)?;
    }
    let batches = count / BATCH;
    if records != batches * BATCH {
        return Err(format!("{records} records of {} events", batches * BATCH).into());
    }
    #[expect(clippy::cast_precision_loss, reason = "a few batches")]
    let mean = nanos / batches as f64;
    Ok(mean)
}

/// One rig for each number of watches, and the events it gets.
struct Case {
    what: String,
    rig: Rig,
    reader: Reader,
    events: Vec<Envelope>,
    figures: Vec<f64>,
}

fn measure(cases: &mut [Case], effort: Effort) -> Result<(), Failure> {
    for round in 0..=effort.rounds {
        for case in &mut *cases {
            let each = deliver(&case.rig, &case.reader, &case.events, effort.events)?;
            // The first round warms up.
            if round > 0 {
                case.figures.push(each);
            }
        }
    }
    Ok(())
}

fn table(title: &str, cases: Vec<Case>, goal: impl Fn(usize) -> Option<f64>) -> Table {
    let first = cases
        .first()
        .map(|case| (case.what.clone(), case.figures.clone()));
    let rows = cases.into_iter().enumerate().map(|(at, case)| {
        let ratio = first.as_ref().filter(|_| at > 0).map(|(of, theirs)| Ratio {
            of: of.clone(),
            spread: Spread::ratio(&case.figures, theirs),
            goal: goal(at),
        });
        Row {
            what: case.what,
            note: String::new(),
            figure: Spread::of(case.figures),
            also: None,
            ratio,
        }
    });
    Table {
        title: title.to_owned(),
        unit: "ns/event".to_owned(),
        also: String::new(),
        further: Vec::new(),
        rows: rows.collect(),
    }
}

/// One event, one hit, among 1 to 1,000,000 watches.
pub(crate) fn watches(effort: Effort) -> Result<Vec<Table>, Failure> {
    let dir: Arc<[u8]> = b"/some/directory".as_slice().into();
    let mut cases = Vec::new();
    for count in [1, 10_000, 1_000_000_u64] {
        let rig = Rig::new(false)?;
        let reader = rig.open(Api::Inotify, RING)?;
        for number in 0..count {
            rig.watch(&reader, number, NodeId(FIRST + number), IN_CREATE)?;
        }
        let middle = NodeId(FIRST + count / 2);
        cases.push(Case {
            what: format!("{count} watches"),
            rig,
            reader,
            events: vec![created(middle, &dir, b"one"), created(middle, &dir, b"two")],
            figures: Vec::new(),
        });
    }
    measure(&mut cases, effort)?;
    let same = table(
        "Finding one watch among many (the events keep hitting it)",
        cases,
        |_| Some(1.3),
    );
    Ok(vec![same, everywhere(effort, &dir)?])
}

/// The events hit all watches in turn, in an order without pattern: what is found is in no cache.
fn everywhere(effort: Effort, dir: &Arc<[u8]>) -> Result<Table, Failure> {
    let mut cases = Vec::new();
    for count in [2, 10_000, 1_000_000_u64] {
        let rig = Rig::new(false)?;
        let reader = rig.open(Api::Inotify, RING)?;
        for number in 0..count {
            rig.watch(&reader, number, NodeId(FIRST + number), IN_CREATE)?;
        }
        let events = (0..50_000_u64).map(|at| {
            // 7,368,787 is prime: no watch is hit twice before most were.
            created(NodeId(FIRST + at * 7_368_787 % count), dir, b"one")
        });
        cases.push(Case {
            what: format!("{count} watches, each in turn"),
            events: events.collect(),
            rig,
            reader,
            figures: Vec::new(),
        });
    }
    measure(&mut cases, effort)?;
    Ok(table(
        "Finding another watch with every event",
        cases,
        |_| None,
    ))
}

/// Watches of trees: the depth of the path counts, not the number of watches.
pub(crate) fn depth(effort: Effort) -> Result<Vec<Table>, Failure> {
    let mut cases = Vec::new();
    for (watches, depth) in [(1, 1), (10_000, 1), (10_000, 4), (10_000, 16), (10_000, 64)] {
        let rig = Rig::new(false)?;
        let reader = rig.open(Api::Native, RING)?;
        rig.watch_tree(&reader, 0, "/component")?;
        for number in 1..watches {
            let below = number % 64;
            let path = format!("/other{number}{}", "/component".repeat(below));
            rig.watch_tree(&reader, number as u64, &path)?;
        }
        let dir: Arc<[u8]> = "/component".repeat(depth).into_bytes().into();
        cases.push(Case {
            what: format!("{watches} trees, path of {depth} components"),
            events: vec![
                created(NodeId(1), &dir, b"one"),
                created(NodeId(1), &dir, b"two"),
            ],
            rig,
            reader,
            figures: Vec::new(),
        });
    }
    measure(&mut cases, effort)?;
    Ok(vec![table(
        "Finding the trees that hold a path",
        cases,
        |at| (at == 1).then_some(1.5),
    )])
}
