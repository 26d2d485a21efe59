//! Does an event cost more when there are more watches? The router and the record alone: the events
//! are made up, and no filesystem changes.

use std::sync::Arc;

use agentfs_core::event::{Envelope, EventSink as _};
use agentfs_core::id::NodeId;
use agentfs_engine::Api;
use agentfs_engine::synth::inotify::IN_CREATE;

use super::Effort;
use crate::Failure;
use crate::engine::{Engine, QueueReader, created, per};
use crate::report::{Row, Table};
use crate::statistics::{Spread, float};

/// Events between two looks of the reader; they fit the ring.
const BATCH: usize = 2000;
const RING: usize = 1 << 20;
/// Where the numbers of watched directories begin.
const FIRST: u64 = 1000;

/// An engine with its watches, and the events that hit them.
struct Load {
    engine: Engine,
    reader: QueueReader,
    events: Vec<Envelope>,
}

impl Load {
    /// Delivers the events in turns, in batches between which the reader pops.
    ///
    /// Returns the nanoseconds of each.
    fn deliver(&self, count: usize) -> Result<f64, Failure> {
        let service = &self.engine.service;
        let (mut nanos, mut records) = (0.0, 0);
        let mut next = self.events.iter().cycle();
        let batches = count / BATCH;
        for _ in 0..batches {
            let batch = next.by_ref().take(BATCH);
            let (each, ()) = per(BATCH, || {
                for event in batch {
                    service.on_envelope(event);
                }
                Ok(())
            })?;
            nanos += each;
            records += self.reader.drain(service)?;
        }
        if records != batches * BATCH {
            return Err(format!("{records} records of {} events", batches * BATCH).into());
        }
        Ok(nanos / float(batches as u64))
    }
}

/// One number of watches.
struct Case {
    what: String,
    load: Box<dyn Fn() -> Result<Load, Failure>>,
    figures: Vec<f64>,
}

impl Case {
    fn new(what: String, load: impl Fn() -> Result<Load, Failure> + 'static) -> Self {
        Self {
            what,
            load: Box::new(load),
            figures: Vec::new(),
        }
    }
}

fn measure(cases: &mut [Case], effort: Effort) -> Result<(), Failure> {
    if effort.rounds == 0 {
        return Ok(());
    }
    let loads = cases.iter().map(|case| (case.load)());
    let loads = loads.collect::<Result<Vec<Load>, Failure>>()?;
    for round in 0..=effort.rounds {
        for (case, load) in cases.iter_mut().zip(&loads) {
            let each = load.deliver(effort.events)?;
            // The first round warms up.
            if round > 0 {
                case.figures.push(each);
            }
        }
    }
    Ok(())
}

/// Compares each case with the first.
fn table(title: &str, cases: &[Case], goal: impl Fn(usize) -> Option<f64>) -> Table {
    let rows = cases.iter().enumerate().map(|(at, case)| {
        let row = Row::new(case.what.as_str(), &case.figures);
        match cases.first().filter(|_| at > 0) {
            Some(first) => {
                let ratio = Spread::ratio(&case.figures, &first.figures);
                row.against(first.what.as_str(), ratio, goal(at))
            }
            None => row,
        }
    });
    Table::new(title, "ns/event", rows)
}

/// Returns an engine where so many directories are watched, all by one queue.
fn watched(count: u64) -> Result<(Engine, QueueReader), Failure> {
    let engine = Engine::new(false)?;
    let reader = engine.open(Api::Inotify, RING)?;
    for number in 0..count {
        engine.watch(&reader, number, NodeId(FIRST + number), IN_CREATE)?;
    }
    Ok((engine, reader))
}

fn directory() -> Arc<[u8]> {
    b"/some/directory".as_slice().into()
}

/// Measures one event with one hit, among 1 to 1,000,000 watches on nodes.
pub(super) fn nodes(effort: Effort) -> Result<Vec<Table>, Failure> {
    let mut same = [1, 10_000, 1_000_000].map(|count| {
        Case::new(format!("{count} watches"), move || {
            let (engine, reader) = watched(count)?;
            let middle = NodeId(FIRST + count / 2);
            let events = [b"one", b"two"].map(|name| created(middle, &directory(), name));
            Ok(Load {
                engine,
                reader,
                events: events.into(),
            })
        })
    });
    measure(&mut same, effort)?;
    // The events hit all watches in an order without pattern: what is found is in no cache.
    let mut other = [2, 10_000, 1_000_000].map(|count| {
        Case::new(format!("{count} watches, each in turn"), move || {
            let (engine, reader) = watched(count)?;
            let events = (0..50_000).map(|at| {
                // 7,368,787 is prime: no watch is hit twice before most were.
                created(NodeId(FIRST + at * 7_368_787 % count), &directory(), b"one")
            });
            Ok(Load {
                engine,
                reader,
                events: events.collect(),
            })
        })
    });
    measure(&mut other, effort)?;
    let title = "Finding one watch among many (the events keep hitting it)";
    Ok(vec![
        table(title, &same, |_| Some(1.3)),
        table("Finding another watch with every event", &other, |_| None),
    ])
}

/// Measures watches of trees: the depth of the path counts, not the number of watches.
pub(super) fn trees(effort: Effort) -> Result<Vec<Table>, Failure> {
    let cases = [(1, 1), (10_000, 1), (10_000, 4), (10_000, 16), (10_000, 64)];
    let mut cases = cases.map(|(watches, depth)| {
        let what = format!("{watches} trees, path of {depth} components");
        Case::new(what, move || {
            let engine = Engine::new(false)?;
            let reader = engine.open(Api::Native, RING)?;
            engine.watch_tree(&reader, 0, "/component")?;
            for number in 1..watches {
                let below = "/component".repeat(number % 64);
                engine.watch_tree(&reader, number as u64, &format!("/other{number}{below}"))?;
            }
            let dir: Arc<[u8]> = "/component".repeat(depth).into_bytes().into();
            let events = [b"one", b"two"].map(|name| created(NodeId(1), &dir, name));
            Ok(Load {
                engine,
                reader,
                events: events.into(),
            })
        })
    });
    measure(&mut cases, effort)?;
    let title = "Finding the trees that hold a path";
    Ok(vec![table(title, &cases, |at| (at == 1).then_some(1.5))])
}
