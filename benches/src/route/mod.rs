//! What it costs to tell watchers of a change: finding them among many, the way from the commit to
//! the record, and bursts, beside the kernel's inotify doing the same on tmpfs.
//!
//! `route [--quick] [--json] [--only PART]`: parts are scale, depth, commit, burst.

mod added_cost;
mod commit;
mod watch_lookup;

use std::io::Write as _;

use crate::Failure;
use crate::report::table::{self, Table, machine};

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Rounds whose median counts.
    rounds: usize,
    /// Events in a round.
    events: usize,
}

type Part = fn(Effort) -> Result<Vec<Table>, Failure>;

const PARTS: [(&str, Part); 4] = [
    ("scale", watch_lookup::watches),
    ("depth", watch_lookup::depth),
    ("commit", commit::run),
    ("burst", added_cost::run),
];

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let only = args
        .iter()
        .position(|arg| arg == "--only")
        .and_then(|at| args.get(at + 1));
    let effort = if has("--quick") {
        Effort {
            rounds: 3,
            events: 20_000,
        }
    } else {
        Effort {
            rounds: 15,
            events: 100_000,
        }
    };
    let mut tables = Vec::new();
    for (name, run) in PARTS {
        if only.is_none_or(|only| only == name) {
            writeln!(std::io::stderr(), "route: {name}")?;
            tables.extend(run(effort)?);
        }
    }
    let head = format!(
        "Machine: {}. Cells are medians (min to max) over {} rounds; ratios are taken round by \
         round, those of added cost beside the median of the kernel's.\n",
        machine(),
        effort.rounds
    );
    Ok(table::findings(head, tables).print(has("--json"))?)
}
