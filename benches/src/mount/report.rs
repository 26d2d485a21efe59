//! The table.

use core::fmt::Write as _;
use std::path::Path;

use crate::goal::Goal;
use crate::report::table::machine;
use crate::statistics::Spread;

use super::Size;
use super::place::Kind;
use super::workloads::{Aim, Row};

/// A row at a place: seconds, round by round.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Cell {
    row: Row,
    kind: Kind,
    seconds: Vec<f64>,
}

impl Cell {
    pub(crate) fn new(row: Row, kind: Kind) -> Self {
        Self {
            row,
            kind,
            seconds: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, row: Row, kind: Kind, seconds: f64) {
        if self.row == row && self.kind == kind {
            self.seconds.push(seconds);
        }
    }
}

#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    head: String,
    cells: Vec<Cell>,
}

impl Report {
    pub(crate) fn new(lower: &Path, size: Size, cells: Vec<Cell>) -> Self {
        let head = format!(
            "Machine: {}. The lower directory is on {}. {} files of source, {} entries in a directory, \
             large files of {} MiB, {} reads and writes at random; medians of {} rounds in \
             milliseconds, ratios round by round with their medians (min to max).",
            machine(),
            filesystem(lower),
            size.sources,
            size.entries,
            size.large,
            size.random,
            size.rounds,
        );
        Self { head, cells }
    }

    fn seconds(&self, row: Row, kind: Kind) -> Option<&[f64]> {
        let cell = self
            .cells
            .iter()
            .find(|cell| cell.row == row && cell.kind == kind);
        cell.map(|cell| cell.seconds.as_slice())
    }

    /// What was to be reached, of the rows that were measured.
    pub(crate) fn goals(&self) -> Vec<Goal> {
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

    pub(crate) fn markdown(&self) -> String {
        let kinds = [
            Kind::Tmpfs,
            Kind::Disk,
            Kind::Overlayfs,
            Kind::FuseOverlayfs,
            Kind::Agentfs,
        ];
        let mut text = format!("{}\n\n| what |", self.head);
        for kind in kinds {
            // Writing to a String cannot fail.
            let _written = write!(text, " {} |", kind.name());
        }
        let _written = writeln!(
            text,
            " of fuse-overlayfs | goal | of the disk | goal |\n|---|{}---|---|---|---|",
            "---|".repeat(kinds.len())
        );
        for row in Row::ALL {
            let Some(ours) = self.seconds(row, Kind::Agentfs) else {
                continue;
            };
            let _written = write!(text, "| {} |", row.name());
            for kind in kinds {
                let figure = self
                    .seconds(row, kind)
                    .map(|seconds| milliseconds(Spread::of(seconds.to_vec()).median));
                let _written = write!(text, " {} |", figure.unwrap_or_default());
            }
            for (kind, most) in bounds(row.aim()) {
                let ratio = self
                    .seconds(row, kind)
                    .map(|theirs| Spread::ratio(ours, theirs));
                let _written = match (ratio, most) {
                    (Some(ratio), Some(most)) => {
                        let goal = Goal::at_most(most, "", "", ratio);
                        write!(text, " {ratio} | {} |", goal.verdict())
                    }
                    (Some(ratio), None) => write!(text, " {ratio} | |"),
                    (None, _) => write!(text, " | |"),
                };
            }
            text.push('\n');
        }
        text
    }
}

/// Against fuse-overlayfs, and against the bare directory.
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

/// What the mount table calls the filesystem of a directory.
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
