//! What notifying watchers adds to an operation: a write of one byte, to two files in turn.

use agentfs_core::{HandleId, OpenFlags};
use agentfs_engine::Api;
use agentfs_engine::synth::inotify::{IN_CREATE, IN_MODIFY};
use agentfs_engine::synth::vnode::NOTE_WRITE;

use super::Effort;
use crate::Failure;
use crate::engine::{Engine, QueueReader, per};
use crate::report::{Row, Table};
use crate::statistics::{Spread, float};

const BATCH: usize = 2000;
const RING: usize = 1 << 20;

struct Case {
    what: &'static str,
    engine: Engine,
    reader: QueueReader,
    files: [HandleId; 2],
    /// Records of a batch.
    expected: usize,
    figures: Vec<f64>,
}

fn case(what: &'static str, listening: bool) -> Result<Case, Failure> {
    let engine = Engine::new(listening)?;
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    engine.branch.mkdir(&engine.caller, "/d", 0o755)?;
    let one = engine.branch.open(&engine.caller, "/d/one", flags, 0o644)?;
    let two = engine.branch.open(&engine.caller, "/d/two", flags, 0o644)?;
    let reader = engine.open(Api::Inotify, RING)?;
    Ok(Case {
        what,
        engine,
        reader,
        files: [one, two],
        expected: 0,
        figures: Vec::new(),
    })
}

fn watched(what: &'static str, path: &str, mask: u32, expected: usize) -> Result<Case, Failure> {
    let mut case = case(what, true)?;
    let node = case.engine.branch.stat(&case.engine.caller, path)?.node;
    case.engine.watch(&case.reader, 1, node, mask)?;
    case.expected = expected;
    Ok(case)
}

fn kqueue(what: &'static str) -> Result<Case, Failure> {
    let mut case = case(what, true)?;
    case.reader = case.engine.open(Api::KqueueXnu, RING)?;
    let node = case.engine.branch.stat(&case.engine.caller, "/d/one")?.node;
    case.engine.watch(&case.reader, 1, node, NOTE_WRITE)?;
    case.expected = 1;
    Ok(case)
}

fn measure(case: &Case, count: usize) -> Result<f64, Failure> {
    let batches = count / BATCH;
    let mut nanos = 0.0;
    for _ in 0..batches {
        let (branch, caller) = (&case.engine.branch, &case.engine.caller);
        let (each, ()) = per(BATCH, || {
            for _ in 0..BATCH / 2 {
                for file in case.files {
                    branch.write_at(caller, file, 0, b"x")?;
                }
            }
            Ok(())
        })?;
        nanos += each;
        let records = case.reader.drain(&case.engine.service)?;
        if records != case.expected {
            return Err(format!("{}: {records} records", case.what).into());
        }
    }
    Ok(nanos / float(batches as u64))
}

/// Returns the figures as they are, and what each adds to the first.
pub(super) fn tables(effort: Effort) -> Result<Vec<Table>, Failure> {
    let mut cases = vec![
        case("nobody listens", false)?,
        case("the service listens, no watch", true)?,
        watched("a watch on another directory", "/", IN_CREATE, 0)?,
        watched("one hit: a record each", "/d", IN_MODIFY, BATCH)?,
        kqueue("one hit: one record for all writes to a file")?,
    ];
    for round in 0..=effort.rounds {
        for case in &mut cases {
            let each = measure(case, effort.events)?;
            // The first round warms up.
            if round > 0 {
                case.figures.push(each);
            }
        }
    }
    let bare = cases.first().map(|case| case.figures.clone());
    let bare = bare.unwrap_or_default();
    let rows = cases.into_iter().map(|case| {
        let added: Vec<f64> = case
            .figures
            .iter()
            .zip(&bare)
            .map(|(all, bare)| all - bare)
            .collect();
        let row = Row::new(case.what, &case.figures).with(Spread::of(added.clone()));
        let is_hit = case.expected == BATCH;
        if !is_hit {
            return row;
        }
        let ratio = Spread::of(added.into_iter().map(|added| added / 300.0).collect());
        row.against("300 ns", ratio, Some(1.0))
    });
    let title = "From the commit to the record: a write of one byte";
    Ok(vec![Table::new(title, "ns/write", rows).with("added ns")])
}
