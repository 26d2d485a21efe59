//! What it costs to find the watches of a change and to write their records: all in this process, by
//! the thread that commits, beside the kernel's inotify on tmpfs.

mod added_cost;
mod coalescing;
mod commit;
mod watch_lookup;

use std::io::Write as _;

use crate::Failure;
use crate::goal::Goal;
use crate::report::{Part, Table};
use crate::stage::Chosen;

/// Measures the way from the commit to the record, in one process
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  agentfs-bench route
  agentfs-bench route --only commit")]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen<Section>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Section {
    /// Finding the watches of an event among many watches on nodes
    WatchLookup,
    /// Finding the watched trees that hold a path, by its depth
    TreeLookup,
    /// What notifying adds to a write of one byte
    Commit,
    /// What a watch adds to each of 100,000 new files, for the thread that makes them
    AddedCost,
    /// 100,000 writes to one watched file while its reader sleeps
    Coalescing,
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Rounds whose median counts.
    rounds: usize,
    /// Events in a round.
    events: usize,
}

impl Effort {
    const FULL: Self = Self {
        rounds: 15,
        events: 100_000,
    };
    const QUICK: Self = Self {
        rounds: 3,
        events: 20_000,
    };
    /// Measures nothing, so that only the goals come out.
    const NOTHING: Self = Self {
        rounds: 0,
        events: 0,
    };
}

type Measure = fn(Effort) -> Result<Vec<Table>, Failure>;

const SECTIONS: [(Section, &str, Measure); 5] = [
    (Section::WatchLookup, "watch-lookup", watch_lookup::nodes),
    (Section::TreeLookup, "tree-lookup", watch_lookup::trees),
    (Section::Commit, "commit", commit::tables),
    (Section::AddedCost, "added-cost", added_cost::tables),
    (Section::Coalescing, "coalescing", coalescing::tables),
];

pub(crate) fn run(args: &Args) -> Result<Part, Failure> {
    let effort = if args.chosen.quick {
        Effort::QUICK
    } else {
        Effort::FULL
    };
    let mut tables = Vec::new();
    for (section, name, measure) in SECTIONS {
        if args.chosen.has(&section) {
            writeln!(std::io::stderr(), "route: {name}")?;
            tables.extend(measure(effort)?);
        }
    }
    let about = format!(
        "All of it is in one process, without a daemon and without a mount. Cells are medians (min to \
         max) over {} rounds; ratios are taken round by round, those of added cost beside the median \
         of the kernel's.",
        effort.rounds
    );
    Part::compared("route", "From the commit to the record", about, &tables)
}

/// Returns the goals, without measuring.
pub(crate) fn goals() -> Result<Vec<Goal>, Failure> {
    let mut goals = Vec::new();
    for (_, _, measure) in SECTIONS {
        let tables = measure(Effort::NOTHING)?;
        goals.extend(tables.iter().flat_map(|table| table.grid().goals));
    }
    Ok(goals)
}
