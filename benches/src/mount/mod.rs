//! What a program pays for working in a mounted branch, beside a bare directory, the kernel's own
//! overlay and fuse-overlayfs.
//!
//! `mount [--quick] [--json] [--workspace | --only ROW]... [--rounds N]`: needs root. With `--workspace` it
//! builds this project at each place and does nothing else: a minute or two for each. The lower directory is on the
//! disk that holds the temporary directory; what is written goes to a tmpfs for the overlays, and to
//! memory for AgentFS, which serves from a process of its own.

mod lower_tree;
mod place;
mod report;
mod server;
mod workloads;

use std::io::Write as _;
use std::path::Path;

use crate::Failure;
use crate::goal::Findings;
use place::{Kind, Place, Stage};
use report::{Cell, Report};
use workloads::{Bench, Row};

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) rounds: usize,
    /// Files of the source tree.
    pub(crate) sources: u64,
    /// Entries of a directory.
    pub(crate) entries: u32,
    /// MiB of a large file.
    pub(crate) large: u64,
    /// Reads or writes at random.
    pub(crate) random: u32,
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

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if let [serve, lower, point] = args
        && serve == "--serve"
    {
        return server::serve(Path::new(lower), Path::new(point));
    }
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let values = |flag: &str| {
        let pairs = args.windows(2).filter(move |pair| pair[0] == flag);
        pairs.map(|pair| pair[1].clone()).collect::<Vec<String>>()
    };
    let mut size = if has("--quick") {
        Size::QUICK
    } else {
        Size::FULL
    };
    if let [rounds] = values("--rounds").as_slice() {
        size.rounds = rounds.parse()?;
    }
    let only = values("--only");
    let is_chosen = |row: &Row| {
        let is_named = only.is_empty() || only.iter().any(|name| row.name().contains(name));
        let is_workspace = *row == Row::Workspace;
        is_workspace == has("--workspace") && (is_workspace || is_named)
    };
    let rows: Vec<Row> = Row::ALL.into_iter().filter(is_chosen).collect();
    let report = measure(size, &rows)?;
    let findings = Findings {
        goals: report.goals(),
        markdown: report.markdown(),
        data: report,
    };
    Ok(findings.print(has("--json"))?)
}

/// Every round runs every row at every place, in turns.
fn measure(size: Size, rows: &[Row]) -> Result<Report, Failure> {
    let stage = Stage::new()?;
    writeln!(std::io::stderr(), "mount: preparing")?;
    lower_tree::prepare(stage.lower(), size)?;
    if rows.contains(&Row::Workspace) {
        lower_tree::prepare_workspace(stage.lower())?;
    }
    let kinds = Kind::available()?;
    let mut cells: Vec<Cell> = rows
        .iter()
        .flat_map(|row| kinds.iter().map(|kind| Cell::new(*row, *kind)))
        .collect();
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
