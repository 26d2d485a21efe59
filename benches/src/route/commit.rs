//! What telling adds to an operation: a write of one byte, on two files in turn.

use crate::report::table::{Ratio, Row, Table};
use crate::statistics::Spread;
use agentfs_core::{HandleId, OpenFlags};
use agentfs_engine::Api;
use agentfs_engine::synth::inotify::{IN_CREATE, IN_MODIFY};
use agentfs_engine::synth::vnode::NOTE_WRITE;

use super::Effort;
use crate::Failure;
use crate::engine::{Reader, Rig, per};

const BATCH: usize = 2000;
const RING: usize = 1 << 20;

struct Case {
    what: &'static str,
    rig: Rig,
    reader: Reader,
    files: [HandleId; 2],
    /// Records of a batch.
    expected: usize,
    figures: Vec<f64>,
}

fn case(what: &'static str, listening: bool) -> Result<Case, Failure> {
    let rig = Rig::new(listening)?;
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    rig.branch.mkdir(&rig.caller, "/d", 0o755)?;
    let one = rig.branch.open(&rig.caller, "/d/one", flags, 0o644)?;
    let two = rig.branch.open(&rig.caller, "/d/two", flags, 0o644)?;
    let reader = rig.open(Api::Inotify, RING)?;
    Ok(Case {
        what,
        rig,
        reader,
        files: [one, two],
        expected: 0,
        figures: Vec::new(),
    })
}

fn watched(what: &'static str, path: &str, mask: u32, expected: usize) -> Result<Case, Failure> {
    let mut case = case(what, true)?;
    let node = case.rig.branch.stat(&case.rig.caller, path)?.node;
    case.rig.watch(&case.reader, 1, node, mask)?;
    case.expected = expected;
    Ok(case)
}

fn kqueue(what: &'static str) -> Result<Case, Failure> {
    let mut case = case(what, true)?;
    case.reader = case.rig.open(Api::KqueueXnu, RING)?;
    let node = case.rig.branch.stat(&case.rig.caller, "/d/one")?.node;
    case.rig.watch(&case.reader, 1, node, NOTE_WRITE)?;
    case.expected = 1;
    Ok(case)
}

fn measure(case: &Case, count: usize) -> Result<f64, Failure> {
    let batches = count / BATCH;
    let mut nanos = 0.0;
    for _ in 0..batches {
        let (branch, caller) = (&case.rig.branch, &case.rig.caller);
        let (each, ()) = per(BATCH, || {
            for _ in 0..BATCH / 2 {
                for file in case.files {
                    branch.write_at(caller, file, 0, b"x")?;
                }
            }
            Ok(())
        })?;
        nanos += each;
        let records = case.reader.drain(&case.rig.service)?;
        if records != case.expected {
            return Err(format!("{}: {records} records", case.what).into());
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a few batches")]
    let mean = nanos / batches as f64;
    Ok(mean)
}

/// The rows: figures as they are, and what each adds to the first.
pub(crate) fn run(effort: Effort) -> Result<Vec<Table>, Failure> {
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
            if round > 0 {
                case.figures.push(each);
            }
        }
    }
    let bare = cases.first().map(|case| case.figures.clone());
    let bare = bare.unwrap_or_default();
    let rows = cases.into_iter().map(|case| {
        let added = case.figures.iter().zip(&bare).map(|(all, bare)| all - bare);
        let added = Spread::of(added.collect());
        let is_hit = case.expected == BATCH;
        Row {
            what: case.what.to_owned(),
            note: String::new(),
            figure: Spread::of(case.figures.clone()),
            also: Some(added),
            ratio: is_hit.then(|| Ratio {
                of: "300 ns".to_owned(),
                spread: Spread::of(
                    case.figures
                        .iter()
                        .zip(&bare)
                        .map(|(all, bare)| (all - bare) / 300.0)
                        .collect(),
                ),
                goal: Some(1.0),
            }),
        }
    });
    Ok(vec![Table {
        title: "From the commit to the record: a write of one byte".to_owned(),
        unit: "ns/write".to_owned(),
        also: "added ns".to_owned(),
        further: Vec::new(),
        rows: rows.collect(),
    }])
}
