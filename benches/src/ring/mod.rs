//! The ring beside what else carries records between two processes, without a daemon and without
//! the preloaded library.

mod body;
mod fetch;
mod idle_strategy;
#[cfg(feature = "peers")]
mod peers;
#[cfg(not(feature = "peers"))]
#[path = "no_peers.rs"]
mod peers;
mod streams;
mod throughput;
mod wake;

use std::io::Write as _;

use crate::Failure;
use crate::goal::Goal;
use crate::placement::Judge;
use crate::report::{Part, Table};
use crate::stage::Chosen;

/// Compares the ring with what else carries records between two processes
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  agentfs-bench ring
  agentfs-bench ring --only wake
  cargo xtask bench ring                 also beside iceoryx2, which this program may be built without")]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen<Section>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Section {
    /// A stream of records from one busy process to another
    Throughput,
    /// From a publish to a reader that slept
    Wake,
    /// A woken reader takes what there is, from the ring or by asking over a socket
    Fetch,
    /// 100,000 records at once, by what the reader does when the ring is empty
    IdleStrategy,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
struct Size {
    records: u64,
    wakes: u64,
    rounds: usize,
}

impl Size {
    const FULL: Self = Self {
        records: 2_000_000,
        wakes: 2_000,
        rounds: 7,
    };
    const QUICK: Self = Self {
        records: 100_000,
        wakes: 500,
        rounds: 3,
    };
    /// Measures nothing, so that only the goals come out.
    const NOTHING: Self = Self {
        rounds: 0,
        ..Self::FULL
    };
}

type Measure = fn(Size, &mut Judge) -> Vec<Table>;

const SECTIONS: [(Section, &str, Measure); 4] = [
    (Section::Throughput, "throughput", throughput::tables),
    (Section::Wake, "wake", wake::tables),
    (Section::Fetch, "fetch", fetch::tables),
    (
        Section::IdleStrategy,
        "idle-strategy",
        idle_strategy::tables,
    ),
];

pub(crate) fn run(args: &Args) -> Result<Part, Failure> {
    let size = if args.chosen.quick {
        Size::QUICK
    } else {
        Size::FULL
    };
    let mut judge = Judge::new(!args.chosen.quick);
    let mut tables: Vec<Table> = Vec::new();
    for (section, name, measure) in SECTIONS {
        if args.chosen.has(&section) {
            writeln!(std::io::stderr(), "ring: {name}")?;
            tables.extend(measure(size, &mut judge));
        }
    }
    let about = format!(
        "Cores {:?}; {} runs counted, {} dropped because the cores had moved or something else \
         ran, {} of those counted disturbed all the same. Cells are medians (min to max) over the \
         runs; ratios are taken round by round.",
        judge.usual(),
        judge.kept,
        judge.dropped,
        judge.disturbed,
    );
    Part::compared("ring", "The ring between two processes", about, &tables)
}

/// Returns the goals, without measuring.
pub(crate) fn goals() -> Vec<Goal> {
    let mut judge = Judge::new(false);
    let tables = SECTIONS.map(|(_, _, measure)| measure(Size::NOTHING, &mut judge));
    let tables = tables.iter().flatten();
    tables.flat_map(|table| table.grid().goals).collect()
}
