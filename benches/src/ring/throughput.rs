//! A stream of records from one busy process to another.

use super::streams::PAUSES;
use super::{Size, peers, streams};
use crate::placement::Judge;
use crate::report::{Row, Table};
use crate::statistics::Spread;

/// Carries so many records, and returns the nanoseconds that each took.
pub(super) type Run = Box<dyn Fn(u64) -> f64>;

/// One way to carry records.
struct Case {
    name: &'static str,
    /// Nothing for a peer that this program was built without.
    run: Option<Run>,
    /// By how much fewer records it is measured.
    slower: u64,
    /// Index of the reference, and how much of its time this may take.
    goals: Vec<(usize, Option<f64>)>,
}

impl Case {
    fn new(
        name: &'static str,
        run: impl Fn(u64) -> f64 + 'static,
        slower: u64,
        goals: &[(usize, Option<f64>)],
    ) -> Self {
        Self::peer(name, Some(Box::new(run)), slower, goals)
    }

    fn peer(
        name: &'static str,
        run: Option<Run>,
        slower: u64,
        goals: &[(usize, Option<f64>)],
    ) -> Self {
        Self {
            name,
            run,
            slower,
            goals: goals.to_vec(),
        }
    }
}

pub(crate) fn tables(size: Size, judge: &mut Judge) -> Vec<Table> {
    vec![table(64, size, judge), table(256, size, judge)]
}

fn table(len: usize, size: Size, judge: &mut Judge) -> Table {
    let cases = cases(len);
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..size.rounds {
        for (case, times) in cases.iter().zip(&mut times) {
            if let Some(run) = &case.run {
                times.push(judge.fair(|| run(size.records / case.slower)));
            }
        }
    }
    // Goals are listed for peers as well that this program was built without.
    let is_shown = |at: usize| size.rounds == 0 || cases[at].run.is_some();
    let mut rows = Vec::new();
    for (at, (case, own)) in cases.iter().zip(&times).enumerate() {
        if !is_shown(at) {
            continue;
        }
        let references = case.goals.iter().filter(|(of, _)| is_shown(*of));
        let mut ratios = references.map(|&(of, goal)| {
            let ratio = Spread::ratio(own, &times[of]);
            (cases[of].name, ratio, goal)
        });
        let first = Row::new(case.name, own);
        rows.push(match ratios.next() {
            Some((of, ratio, goal)) => first.against(of, ratio, goal),
            None => first,
        });
        rows.extend(ratios.map(|(of, ratio, goal)| {
            Row::new(format!("{} (again)", case.name), own).against(of, ratio, goal)
        }));
    }
    let title = format!("{len}-byte records, from one busy process to another");
    Table::new(title, "ns per record", rows)
}

fn cases(len: usize) -> Vec<Case> {
    // Room for some 4,096 records, as rtrb has.
    let capacity = 4096 * len;
    let small = len == 64;
    let ring = move |capacity, batch, pauses| {
        move |records| streams::ring(capacity, len, records, batch, pauses)
    };
    let mut cases = vec![
        Case::peer("rtrb in one process, push/pop", rtrb(len, 1), 1, &[]),
        Case::peer(
            "rtrb in one process, slices of 64",
            rtrb_slices(len),
            1,
            &[(0, None)],
        ),
        Case::new(
            "this ring, one publish a record",
            ring(capacity, 1, PAUSES),
            1,
            &[(0, small.then_some(1.0))],
        ),
        Case::new(
            "this ring, batches of 64",
            ring(capacity, 64, PAUSES),
            1,
            &[(0, small.then_some(0.75)), (1, None)],
        ),
        Case::new(
            "this ring of 64 KiB, one publish a record",
            ring(64 << 10, 1, PAUSES),
            1,
            &[(0, None)],
        ),
        Case::new(
            "this ring, one publish a record, the reader looking all the time",
            ring(capacity, 1, 1),
            1,
            &[(0, None)],
        ),
        Case::peer(
            "rtrb in one process, push/pop, the reader pausing as ours",
            rtrb(len, PAUSES),
            1,
            &[(0, None)],
        ),
        Case::new(
            "pipe, one record a call",
            move |records| streams::pipe(len, records),
            10,
            &[(2, None)],
        ),
        Case::new(
            "SEQPACKET socket, one record a call",
            move |records| streams::seqpacket(len, records),
            10,
            &[(2, None)],
        ),
    ];
    with_peers(len, &mut cases);
    cases
}

fn rtrb(len: usize, pauses: u32) -> Option<Run> {
    Some(if len == 64 {
        Box::new(move |records| streams::rtrb_single::<8>(records, pauses))
    } else {
        Box::new(move |records| streams::rtrb_single::<32>(records, pauses))
    })
}

fn rtrb_slices(len: usize) -> Option<Run> {
    Some(if len == 64 {
        Box::new(streams::rtrb_slices::<8>)
    } else {
        Box::new(streams::rtrb_slices::<32>)
    })
}

/// Adds iceoryx2, and the goals beside it.
fn with_peers(len: usize, cases: &mut Vec<Case>) {
    let at = cases.len();
    cases.push(Case::peer(
        "iceoryx2, one sample a record",
        peers::single(len),
        4,
        &[(2, None)],
    ));
    cases.push(Case::peer(
        "iceoryx2, slices of 64",
        peers::slices(len),
        1,
        &[(3, None)],
    ));
    // At least 15 times its rate is at most a fifteenth of its time.
    let fifteenth = 1.0 / 15.0;
    cases[2].goals.push((
        at,
        (len == 64).then_some((fifteenth * 10_000.0_f64).round() / 10_000.0),
    ));
    cases[3].goals.push((at + 1, None));
}
