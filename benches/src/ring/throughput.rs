//! A stream of records from one busy process to another.

use crate::placement::Judge;
use crate::report::table::{Ratio, Row, Table};
use crate::statistics::Spread;

use super::streams::PAUSES;
use super::{Size, streams};

/// One way to carry records.
struct Case {
    name: &'static str,
    /// Nanoseconds per record.
    run: Box<dyn Fn(u64) -> f64>,
    /// By how much fewer records it is measured.
    slower: u64,
    /// Index of the reference, and how much of its time this may take.
    goals: Vec<(usize, Option<f64>)>,
}

pub(crate) fn tables(size: Size, judge: &mut Judge) -> Vec<Table> {
    vec![table(64, size, judge), table(256, size, judge)]
}

fn table(len: usize, size: Size, judge: &mut Judge) -> Table {
    let cases = cases(len);
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..size.rounds {
        for (case, times) in cases.iter().zip(&mut times) {
            times.push(judge.fair(|| (case.run)(size.records / case.slower)));
        }
    }
    let mut rows = Vec::new();
    for (case, own) in cases.iter().zip(&times) {
        let mut ratios = case.goals.iter().map(|&(of, goal)| Ratio {
            of: cases[of].name.to_owned(),
            spread: Spread::ratio(own, &times[of]),
            goal,
        });
        rows.push(Row {
            what: case.name.to_owned(),
            note: String::new(),
            figure: Spread::of(own.clone()),
            also: None,
            ratio: ratios.next(),
        });
        for ratio in ratios {
            let what = format!("{} (again)", case.name);
            rows.push(Row {
                what,
                note: String::new(),
                figure: Spread::of(own.clone()),
                also: None,
                ratio: Some(ratio),
            });
        }
    }
    Table {
        title: format!("{len}-byte records, from one busy process to another"),
        unit: "ns per record".to_owned(),
        also: String::new(),
        further: Vec::new(),
        rows,
    }
}

fn cases(len: usize) -> Vec<Case> {
    let rtrb = move |pauses| -> Box<dyn Fn(u64) -> f64> {
        if len == 64 {
            Box::new(move |records| streams::rtrb_single::<8>(records, pauses))
        } else {
            Box::new(move |records| streams::rtrb_single::<32>(records, pauses))
        }
    };
    let slices: Box<dyn Fn(u64) -> f64> = if len == 64 {
        Box::new(streams::rtrb_slices::<8>)
    } else {
        Box::new(streams::rtrb_slices::<32>)
    };
    // Room for some 4,096 records, as rtrb has.
    let capacity = 4096 * len;
    let small = len == 64;
    let mut cases = vec![
        Case {
            name: "rtrb in one process, push/pop",
            run: rtrb(1),
            slower: 1,
            goals: vec![],
        },
        Case {
            name: "rtrb in one process, slices of 64",
            run: slices,
            slower: 1,
            goals: vec![(0, None)],
        },
        Case {
            name: "this ring, one publish a record",
            run: Box::new(move |records| streams::ring(capacity, len, records, 1, PAUSES)),
            slower: 1,
            goals: vec![(0, small.then_some(1.0))],
        },
        Case {
            name: "this ring, batches of 64",
            run: Box::new(move |records| streams::ring(capacity, len, records, 64, PAUSES)),
            slower: 1,
            goals: vec![(0, small.then_some(0.75)), (1, None)],
        },
        Case {
            name: "this ring of 64 KiB, one publish a record",
            run: Box::new(move |records| streams::ring(64 << 10, len, records, 1, PAUSES)),
            slower: 1,
            goals: vec![(0, None)],
        },
        Case {
            name: "this ring, one publish a record, the reader looking all the time",
            run: Box::new(move |records| streams::ring(capacity, len, records, 1, 1)),
            slower: 1,
            goals: vec![(0, None)],
        },
        Case {
            name: "rtrb in one process, push/pop, the reader pausing as ours",
            run: rtrb(PAUSES),
            slower: 1,
            goals: vec![(0, None)],
        },
        Case {
            name: "pipe, one record a call",
            run: Box::new(move |records| streams::pipe(len, records)),
            slower: 10,
            goals: vec![(2, None)],
        },
        Case {
            name: "SEQPACKET socket, one record a call",
            run: Box::new(move |records| streams::seqpacket(len, records)),
            slower: 10,
            goals: vec![(2, None)],
        },
    ];
    peers(len, &mut cases);
    cases
}

#[cfg(feature = "peers")]
fn peers(len: usize, cases: &mut Vec<Case>) {
    use super::peers;
    type Run = Box<dyn Fn(u64) -> f64>;
    let (single, slices): (Run, Run) = if len == 64 {
        (Box::new(peers::single::<8>), Box::new(peers::slices::<8>))
    } else {
        (Box::new(peers::single::<32>), Box::new(peers::slices::<32>))
    };
    let at = cases.len();
    cases.push(Case {
        name: "iceoryx2, one sample a record",
        run: single,
        slower: 4,
        goals: vec![(2, None)],
    });
    cases.push(Case {
        name: "iceoryx2, slices of 64",
        run: slices,
        slower: 1,
        goals: vec![(3, None)],
    });
    // At least 15 times its rate is at most a fifteenth of its time.
    let fifteenth = 1.0 / 15.0;
    cases[2].goals.push((
        at,
        (len == 64).then_some((fifteenth * 10_000.0_f64).round() / 10_000.0),
    ));
    cases[3].goals.push((at + 1, None));
}

#[cfg(not(feature = "peers"))]
fn peers(_len: usize, _cases: &mut Vec<Case>) {}
