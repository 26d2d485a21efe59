//! What FsCore costs, each number beside the same thing done another way in the same run.
//!
//! Prints one Markdown table, or JSON with `--json`. `--quick` takes small counts: to see that it
//! runs, not to quote.

mod count;
mod measure;
mod races;
mod report;
mod scale;
mod tmpfs;

use std::io;

use agentfs_benches::goal::Findings;

#[global_allocator]
static ALLOCATOR: count::Counting = count::Counting;

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

fn main() -> io::Result<()> {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let size = if has("--quick") {
        Size::QUICK
    } else {
        Size::FULL
    };
    // First of all: later, memory that was freed would be used again and not count as growth.
    let memory = scale::memory(size)?;
    let report = report::Report {
        races: races::all(size)?,
        scale: scale::branching(size)?,
        memory,
        events: races::events(size)?,
        parallel: races::parallel(size)?,
    };
    let findings = Findings {
        goals: report.goals(),
        markdown: report.markdown(),
        data: report,
    };
    findings.print(has("--json"))
}
