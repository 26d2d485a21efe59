//! What a program pays for working in a mounted branch, beside a bare directory, the kernel's own
//! overlay and fuse-overlayfs.
//!
//! The lower directory is on the disk that holds the temporary directory. What is written goes to a
//! tmpfs for the overlays. AgentFS, which serves from a process of its own, is measured in both of its
//! modes: it keeps what is written in memory, or in a store on that disk.

mod lower_tree;
mod place;
mod report;
pub(crate) mod server;
mod workloads;

use std::io::Write as _;
use std::path::Path;

use crate::Failure;
use crate::goal::Goal;
use crate::report::Part;
use place::{Kind, Place, Stage};
use report::{Cell, Report};
use workloads::{Bench, Row};

/// Compares a mounted branch with a bare directory and with other overlays
///
/// Mounts, so it has to run as root, and needs fuse-overlayfs to compare with.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  agentfs-bench mount
  agentfs-bench mount --only 'git status' --only untar --rounds 3
  agentfs-bench mount --workspace          build this project at each place: a minute or two for each")]
pub(crate) struct Args {
    /// Measure little: to see that it works, not to quote
    #[arg(long)]
    quick: bool,
    /// Measure only the workloads with this in their names; may be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "workspace")]
    only: Vec<String>,
    /// Build this project at each place, and do nothing else
    #[arg(long)]
    workspace: bool,
    /// How often every workload runs at every place
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
}

impl Args {
    fn size(&self) -> Size {
        let size = if self.quick { Size::QUICK } else { Size::FULL };
        Size {
            rounds: self.rounds.map_or(size.rounds, |it| it as usize),
            ..size
        }
    }

    fn rows(&self) -> Vec<Row> {
        let is_chosen = |row: &Row| {
            let is_named =
                self.only.is_empty() || self.only.iter().any(|name| row.name().contains(name));
            let is_workspace = *row == Row::Workspace;
            is_workspace == self.workspace && (is_workspace || is_named)
        };
        Row::ALL.into_iter().filter(is_chosen).collect()
    }
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
struct Size {
    rounds: usize,
    /// Files of the source tree.
    sources: u64,
    /// Entries of a directory.
    entries: u32,
    /// MiB of a large file.
    large: u64,
    /// Reads or writes at random.
    random: u32,
}

impl Size {
    const FULL: Self = Self {
        rounds: 7,
        sources: 2_000,
        entries: 10_000,
        large: 64,
        random: 20_000,
    };
    const QUICK: Self = Self {
        rounds: 1,
        sources: 100,
        entries: 200,
        large: 4,
        random: 200,
    };
}

pub(crate) fn run(args: &Args) -> Result<Part, Failure> {
    measure(args.size(), &args.rows())?.part()
}

/// Returns the goals, without measuring.
pub(crate) fn goals(args: &Args) -> Vec<Goal> {
    let cells = cells(&args.rows(), &Kind::ALL);
    Report::new(Path::new("/"), args.size(), cells).goals()
}

fn cells(rows: &[Row], kinds: &[Kind]) -> Vec<Cell> {
    let of_row = |row: &Row| {
        kinds
            .iter()
            .map(|kind| Cell::new(*row, *kind))
            .collect::<Vec<_>>()
    };
    rows.iter().flat_map(of_row).collect()
}

/// Runs every row at every place in every round, in turns.
fn measure(size: Size, rows: &[Row]) -> Result<Report, Failure> {
    let stage = Stage::new()?;
    writeln!(std::io::stderr(), "mount: preparing")?;
    lower_tree::prepare(stage.lower(), size)?;
    if rows.contains(&Row::Workspace) {
        lower_tree::prepare_workspace(stage.lower())?;
    }
    let kinds = Kind::available()?;
    let mut cells = cells(rows, &kinds);
    for round in 0..size.rounds {
        for kind in &kinds {
            writeln!(std::io::stderr(), "mount: round {round}, {}", kind.name())?;
            let place = Place::make(&stage, *kind)?;
            let bench = Bench::new(place.path(), stage.archive(), size, round)?;
            for row in rows {
                let seconds = bench
                    .run(*row)
                    .map_err(|error| format!("{} on {}: {error}", row.name(), kind.name()))?;
                for cell in &mut cells {
                    cell.add(*row, *kind, seconds);
                }
            }
        }
    }
    Ok(Report::new(stage.lower(), size, cells))
}
