//! The table.

use std::path::Path;

use super::Size;
use super::place::Kind;
use super::workloads::{Aim, Row};
use crate::Failure;
use crate::goal::Goal;
use crate::report::{Grid, Part};
use crate::statistics::Spread;

/// A row at a place: seconds, round by round.
#[derive(Debug, serde::Serialize)]
pub(super) struct Cell {
    row: Row,
    kind: Kind,
    seconds: Vec<f64>,
}

impl Cell {
    pub(super) fn new(row: Row, kind: Kind) -> Self {
        Self {
            row,
            kind,
            seconds: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, row: Row, kind: Kind, seconds: f64) {
        if self.row == row && self.kind == kind {
            self.seconds.push(seconds);
        }
    }
}

#[derive(Debug, serde::Serialize)]
pub(super) struct Report {
    about: String,
    cells: Vec<Cell>,
}

impl Report {
    pub(super) fn new(lower: &Path, size: Size, cells: Vec<Cell>) -> Self {
        let about = format!(
            "The lower directory is on {}. {} files of source, {} entries in a directory, large files \
             of {} MiB, {} reads and writes at random; medians of {} rounds in milliseconds, ratios \
             round by round with their medians (min to max).",
            filesystem(lower),
            size.sources,
            size.entries,
            size.large,
            size.random,
            size.rounds,
        );
        Self { about, cells }
    }

    fn seconds(&self, row: Row, kind: Kind) -> Option<&[f64]> {
        let cell = self
            .cells
            .iter()
            .find(|cell| cell.row == row && cell.kind == kind);
        cell.map(|cell| cell.seconds.as_slice())
    }

    /// Returns what was to be reached, of the rows that were measured.
    pub(super) fn goals(&self) -> Vec<Goal> {
        let compared = Row::ALL.into_iter().flat_map(|row| self.compared(row));
        compared.filter_map(|it| it.goal).collect()
    }

    /// Returns what a row is compared with, as far as it was measured.
    fn compared(&self, row: Row) -> Vec<Compared> {
        let compared = comparisons(row).into_iter().map(|it| {
            let ours = self.seconds(row, it.ours)?;
            let ratio = Spread::ratio(ours, self.seconds(row, it.theirs)?);
            let goal = it
                .most
                .map(|most| Goal::at_most(most, it.of, it.what(row), ratio));
            Some(Compared {
                ratio: ratio.to_string(),
                goal,
            })
        });
        compared.map(Option::unwrap_or_default).collect()
    }

    pub(super) fn part(&self) -> Result<Part, Failure> {
        Ok(Part {
            name: "mount".to_owned(),
            title: "A mounted branch beside other overlays".to_owned(),
            about: self.about.clone(),
            tables: vec![self.grid()],
            plots: Vec::new(),
            goals: Vec::new(),
            raw: serde_json::to_value(self)?,
        })
    }

    fn grid(&self) -> Grid {
        let ratios = COMPARED.map(|of| [of, "goal"]);
        let head = ["what"].into_iter().chain(Kind::ALL.map(Kind::name));
        let head: Vec<&str> = head.chain(ratios.into_iter().flatten()).collect();
        let mut grid = Grid::new("", &head);
        for row in Row::ALL {
            if self.seconds(row, Kind::Agentfs).is_none() {
                continue;
            }
            let mut cells = vec![row.name().to_owned()];
            cells.extend(Kind::ALL.map(|kind| {
                let seconds = self.seconds(row, kind);
                let median = seconds.map(|it| Spread::of(it.to_vec()).median);
                median.map(milliseconds).unwrap_or_default()
            }));
            for Compared { ratio, goal } in self.compared(row) {
                cells.push(ratio);
                cells.push(goal.map(|goal| goal.verdict()).unwrap_or_default());
            }
            grid.rows.push(cells);
        }
        grid.goals = self.goals();
        grid
    }
}

/// The heads of the columns of the ratios.
const COMPARED: [&str; 3] = ["of fuse-overlayfs", "of the disk", "on disk, of memory"];

/// One of our times beside another one, and how many times that it may be.
#[derive(Clone, Copy, Debug)]
struct Comparison {
    ours: Kind,
    theirs: Kind,
    of: &'static str,
    most: Option<f64>,
}

impl Comparison {
    fn what(self, row: Row) -> String {
        match self.ours {
            Kind::AgentfsStore => format!("in a store, {}", row.name()),
            Kind::Tmpfs | Kind::Disk | Kind::Overlayfs | Kind::FuseOverlayfs | Kind::Agentfs => {
                row.name().to_owned()
            }
        }
    }
}

/// A comparison that was made, if it was.
#[derive(Debug, Default)]
struct Compared {
    ratio: String,
    goal: Option<Goal>,
}

/// Returns the comparisons of a row: with fuse-overlayfs, with the bare directory, and of the store
/// with memory.
fn comparisons(row: Row) -> [Comparison; COMPARED.len()] {
    let (peer, bare) = match row.aim() {
        Aim::Metadata => (0.5, None),
        Aim::Content => (1.0, None),
        Aim::Unchanged => (1.0, Some(1.2)),
    };
    let in_memory = |theirs, of, most| Comparison {
        ours: Kind::Agentfs,
        theirs,
        of,
        most,
    };
    [
        in_memory(Kind::FuseOverlayfs, "of fuse-overlayfs", Some(peer)),
        in_memory(Kind::Disk, "of disk", bare),
        Comparison {
            ours: Kind::AgentfsStore,
            theirs: Kind::Agentfs,
            of: "of memory",
            most: row.most_of_memory(),
        },
    ]
}

fn milliseconds(seconds: f64) -> String {
    let digits = if seconds < 0.1 { 1 } else { 0 };
    format!("{:.digits$}", seconds * 1000.0)
}

/// Returns what the mount table calls the filesystem of a directory.
fn filesystem(dir: &Path) -> String {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind) = (fields.next()?, fields.next()?);
            dir.starts_with(point).then_some((point.len(), kind))
        })
        .max()
        .map_or_else(
            || "an unknown filesystem".to_owned(),
            |(_, kind)| kind.to_owned(),
        )
}
