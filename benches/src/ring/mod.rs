//! The ring beside what else carries records between two processes.
//!
//! `ring [--quick] [--json] [--only PART]`: parts are throughput, wake, fetch, burst. `--quick` runs
//! little and keeps every run: to see that it works, not to quote.

mod body;
mod fetch;
mod idle_strategy;
#[cfg(feature = "peers")]
mod peers;
mod streams;
mod throughput;
mod wake;

use std::io::Write as _;

use crate::Failure;
use crate::placement::Judge;
use crate::report::table::{self, Table, machine};

/// How much to measure.
#[derive(Clone, Copy, Debug)]
struct Size {
    records: u64,
    wakes: u64,
    rounds: usize,
}

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let quick = has("--quick");
    let size = if quick {
        Size {
            records: 100_000,
            wakes: 500,
            rounds: 3,
        }
    } else {
        Size {
            records: 2_000_000,
            wakes: 2_000,
            rounds: 7,
        }
    };
    let only = args
        .iter()
        .position(|arg| arg == "--only")
        .and_then(|at| args.get(at + 1));
    let wanted = |part: &str| only.is_none_or(|only| only == part);

    let mut judge = Judge::new(!quick);
    let mut tables: Vec<Table> = Vec::new();
    for (part, run) in [
        (
            "throughput",
            throughput::tables as fn(Size, &mut Judge) -> Vec<Table>,
        ),
        ("wake", wake::tables),
        ("fetch", fetch::tables),
        ("burst", idle_strategy::tables),
    ] {
        if wanted(part) {
            writeln!(std::io::stderr(), "ring: {part}")?;
            tables.extend(run(size, &mut judge));
        }
    }

    let head = format!(
        "Machine: {}. Cores {:?}; {} runs counted, {} dropped because the cores had moved or \
         something else ran, {} of those counted disturbed all the same. Cells are medians (min to \
         max) over the runs; ratios are taken round by round.\n",
        machine(),
        judge.usual(),
        judge.kept,
        judge.dropped,
        judge.disturbed,
    );
    Ok(table::findings(head, tables).print(has("--json"))?)
}
