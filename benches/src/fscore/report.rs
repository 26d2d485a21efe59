//! The table.

use super::freezing::Freezing;
use super::race::Race;
use super::stored::Stored;
use crate::Failure;
use crate::goal::Goal;
use crate::report::{Grid, Part};
use crate::statistics::Spread;

/// Everything that was measured.
#[derive(Debug, serde::Serialize)]
pub(super) struct Report {
    /// Against tmpfs.
    pub(super) races: Vec<Race>,
    pub(super) tree_sizes: Vec<TreeSizes>,
    pub(super) memory: Memory,
    pub(super) events: Vec<Events>,
    /// Two branches, two filesystems.
    pub(super) parallel: [Race; 2],
    pub(super) stored: Stored,
    pub(super) freezing: Freezing,
}

/// The same operation over a small and a large tree.
#[derive(Debug, serde::Serialize)]
pub(super) struct TreeSizes {
    pub(super) what: String,
    pub(super) files: [u32; 2],
    /// Nanoseconds, for each tree.
    pub(super) nanos: [Spread; 2],
    /// The large by the small, by the medians.
    pub(super) ratio: f64,
}

/// What empty files cost.
#[derive(Debug, serde::Serialize)]
pub(super) struct Memory {
    pub(super) files: u32,
    /// Bytes that the allocator gave, per file.
    pub(super) allocated: f64,
    /// Growth of the resident set, per file.
    pub(super) resident: f64,
}

/// The cost of events.
#[derive(Debug, serde::Serialize)]
pub(super) struct Events {
    pub(super) sinks: usize,
    /// A write of one byte, in nanoseconds, with tracking on and these sinks, against one with
    /// tracking off.
    pub(super) write: Race,
}

impl Report {
    /// Returns what was to be reached.
    pub(super) fn goals(&self) -> Vec<Goal> {
        let mut goals = self.goals_in_memory();
        goals.extend(self.stored.goals());
        goals.extend(self.freezing.goals());
        goals
    }

    fn goals_in_memory(&self) -> Vec<Goal> {
        let races = self.races.iter();
        let mut goals: Vec<Goal> = races
            .map(|race| Goal::at_most(1.0, "of tmpfs", race.what.clone(), race.ratio))
            .collect();
        for it in &self.tree_sizes {
            let [small, large] = it.files;
            let what = format!("{}, {large} files against {small}", it.what);
            let ratio = Spread::of(vec![it.ratio]);
            goals.push(Goal::at_most(2.0, "of the small tree", what, ratio));
            let what = format!("{}, {large} files", it.what);
            goals.push(Goal::at_most(50_000.0, "ns", what, it.nanos[1]));
        }
        let what = format!("memory per empty file, {} files", self.memory.files);
        let allocated = Spread::of(vec![self.memory.allocated]);
        goals.push(Goal::at_most(400.0, "bytes", what, allocated));
        goals
    }

    pub(super) fn part(&self) -> Result<Part, Failure> {
        let tables = vec![self.grid(), self.stored.grid(), self.freezing.grid()];
        part(tables, serde_json::to_value(self)?)
    }

    fn grid(&self) -> Grid {
        let mut rows = Vec::new();
        for race in &self.races {
            rows.push([
                race.what.clone(),
                nanos(&race.ours),
                nanos(&race.theirs),
                format!("{} of tmpfs", ratio(&race.ratio)),
            ]);
        }
        for it in &self.tree_sizes {
            let [small, large] = it.files;
            rows.push([
                format!("{}, {large} files against {small}", it.what),
                nanos(&it.nanos[1]),
                nanos(&it.nanos[0]),
                format!("{:.2} of the small tree", it.ratio),
            ]);
        }
        for events in &self.events {
            rows.push([
                format!("write 1 byte, {} sinks against tracking off", events.sinks),
                nanos(&events.write.ours),
                nanos(&events.write.theirs),
                format!("{} of untracked", ratio(&events.write.ratio)),
            ]);
        }
        for race in &self.parallel {
            rows.push([
                format!("{}, in turn against two threads at once", race.what),
                nanos(&race.ours),
                nanos(&race.theirs),
                format!("{} times as fast in parallel", ratio(&race.ratio)),
            ]);
        }
        let Memory {
            files,
            allocated,
            resident,
        } = &self.memory;
        rows.push([
            format!("memory per empty file, {files} files"),
            format!("{allocated:.0} B allocated"),
            format!("{resident:.0} B resident"),
            String::new(),
        ]);
        let head = [
            "what",
            "median (min to max)",
            "compared with",
            "ratio, median (min to max)",
        ];
        let mut grid = Grid::new("", &head);
        grid.rows.extend(rows.into_iter().map(Vec::from));
        grid.goals = self.goals_in_memory();
        grid
    }
}

/// Returns the tables as a part of the report.
pub(super) fn part(tables: Vec<Grid>, raw: serde_json::Value) -> Result<Part, Failure> {
    let about = "Each figure is beside the same thing done another way, in turns: the median of \
                 the rounds, with the least and the most.";
    Ok(Part {
        name: "fscore".to_owned(),
        title: "The filesystem in one process".to_owned(),
        about: about.to_owned(),
        tables,
        plots: Vec::new(),
        goals: Vec::new(),
        raw,
    })
}

fn nanos(spread: &Spread) -> String {
    format!(
        "{:.0} ns ({:.0} to {:.0})",
        spread.median, spread.min, spread.max
    )
}

fn ratio(spread: &Spread) -> String {
    format!(
        "{:.2} ({:.2} to {:.2})",
        spread.median, spread.min, spread.max
    )
}
