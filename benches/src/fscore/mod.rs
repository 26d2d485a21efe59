//! What FsCore costs, each number beside the same thing done another way in the same run.

mod freezing;
mod operations;
mod race;
mod report;
mod stored;
mod tmpfs;
mod tree_size;

use crate::Failure;
use crate::goal::Goal;
use crate::report::Part;

/// Compares the filesystem's operations with the same on tmpfs
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  agentfs-bench fscore
  agentfs-bench fscore --only-freezing")]
pub(crate) struct Args {
    /// Measure only how a project is frozen
    #[arg(long)]
    only_freezing: bool,
    /// Measure little: to see that it works, not to quote
    #[arg(long)]
    quick: bool,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Operations in a round.
    operations: u32,
    rounds: u32,
    /// The small and the large tree.
    files: [u32; 2],
    /// MiB that a process writes whose memory is looked at.
    mebibytes: u32,
    /// Files of a project that is frozen, and their MiB.
    project: [u32; 2],
    /// How often it is frozen.
    freezes: u32,
}

impl Size {
    const FULL: Self = Self {
        operations: 10_000,
        rounds: 21,
        files: [1_000, 1_000_000],
        mebibytes: 2_048,
        project: [50_000, 1_024],
        freezes: 5,
    };
    const QUICK: Self = Self {
        operations: 1_000,
        rounds: 3,
        files: [1_000, 20_000],
        mebibytes: 512,
        project: [1_000, 20],
        freezes: 2,
    };
    /// Measures nothing, so that only the goals come out.
    const NOTHING: Self = Self {
        rounds: 0,
        ..Self::FULL
    };
}

pub(crate) fn run(args: &Args) -> Result<Part, Failure> {
    let size = if args.quick { Size::QUICK } else { Size::FULL };
    if args.only_freezing {
        let measured = freezing::measure(size)?;
        return report::part(vec![measured.grid()], serde_json::to_value(&measured)?);
    }
    report(size)?.part()
}

/// Returns the goals, without measuring.
pub(crate) fn goals() -> Result<Vec<Goal>, Failure> {
    Ok(report(Size::NOTHING)?.goals())
}

fn report(size: Size) -> Result<report::Report, Failure> {
    // First of all: later, memory that was freed would be used again and not count as growth.
    let memory = tree_size::memory(size)?;
    Ok(report::Report {
        races: operations::against_tmpfs(size)?,
        tree_sizes: tree_size::branching(size)?,
        memory,
        events: operations::events(size)?,
        parallel: operations::parallel(size)?,
        stored: stored::measure(size)?,
        freezing: freezing::measure(size)?,
    })
}
