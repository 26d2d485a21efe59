//! What FsCore costs, each number beside the same thing done another way in the same run.
//!
//! Prints one Markdown table, or JSON with `--json`. `--quick` takes small counts: to see that it
//! runs, not to quote.

mod operations;
mod race;
mod report;
mod tmpfs;
mod tree_size;

use crate::Failure;
use crate::goal::Findings;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Operations in a round.
    pub(crate) operations: u32,
    pub(crate) rounds: u32,
    /// The small and the large tree.
    pub(crate) files: [u32; 2],
}

impl Size {
    const FULL: Self = Self {
        operations: 10_000,
        rounds: 21,
        files: [1_000, 1_000_000],
    };
    const QUICK: Self = Self {
        operations: 1_000,
        rounds: 3,
        files: [1_000, 20_000],
    };
}

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let size = if has("--quick") {
        Size::QUICK
    } else {
        Size::FULL
    };
    // First of all: later, memory that was freed would be used again and not count as growth.
    let memory = tree_size::memory(size)?;
    let report = report::Report {
        races: operations::all(size)?,
        scale: tree_size::branching(size)?,
        memory,
        events: operations::events(size)?,
        parallel: operations::parallel(size)?,
    };
    let findings = Findings {
        goals: report.goals(),
        markdown: report.markdown(),
        data: report,
    };
    Ok(findings.print(has("--json"))?)
}
