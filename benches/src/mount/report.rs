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
        let mut goals = Vec::new();
        for row in Row::ALL {
            for (kind, most) in bounds(row.aim()) {
                if let (Some(ours), Some(theirs), Some(most)) = (
                    self.seconds(row, Kind::Agentfs),
                    self.seconds(row, kind),
                    most,
                ) {
                    let of = format!("of {}", kind.name());
                    let ratio = Spread::ratio(ours, theirs);
                    goals.push(Goal::at_most(most, of, row.name(), ratio));
                }
            }
        }
        goals
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
        let ratios = ["of fuse-overlayfs", "goal", "of the disk", "goal"];
        let head = ["what"].into_iter().chain(Kind::ALL.map(Kind::name));
        let head: Vec<&str> = head.chain(ratios).collect();
        let mut grid = Grid::new("", &head);
        for row in Row::ALL {
            let Some(ours) = self.seconds(row, Kind::Agentfs) else {
                continue;
            };
            let mut cells = vec![row.name().to_owned()];
            cells.extend(Kind::ALL.map(|kind| {
                let seconds = self.seconds(row, kind);
                let median = seconds.map(|it| Spread::of(it.to_vec()).median);
                median.map(milliseconds).unwrap_or_default()
            }));
            for (kind, most) in bounds(row.aim()) {
                let ratio = self
                    .seconds(row, kind)
                    .map(|theirs| Spread::ratio(ours, theirs));
                let verdict = ratio.zip(most).map(|(ratio, most)| {
                    let goal = Goal::at_most(most, "", "", ratio);
                    goal.verdict()
                });
                cells.push(ratio.map_or_else(String::new, |it| it.to_string()));
                cells.push(verdict.unwrap_or_default());
            }
            grid.rows.push(cells);
        }
        grid.goals = self.goals();
        grid
    }
}

/// Returns the bounds against fuse-overlayfs, and against the bare directory.
fn bounds(aim: Aim) -> [(Kind, Option<f64>); 2] {
    let (peer, bare) = match aim {
        Aim::Metadata => (0.5, None),
        Aim::Content => (1.0, None),
        Aim::Unchanged => (1.0, Some(1.2)),
    };
    [(Kind::FuseOverlayfs, Some(peer)), (Kind::Disk, bare)]
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
