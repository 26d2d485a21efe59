//! The table.

use std::fmt::Write as _;

use crate::goal::Goal;

use super::race::{Race, Spread};

/// Everything that was measured.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    /// Against tmpfs.
    pub(crate) races: Vec<Race>,
    pub(crate) scale: Vec<Scale>,
    pub(crate) memory: Memory,
    pub(crate) events: Vec<Events>,
    /// Two branches, two filesystems.
    pub(crate) parallel: [Race; 2],
}

/// The same operation over a small and a large tree.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Scale {
    pub(crate) what: String,
    pub(crate) files: [u32; 2],
    /// Nanoseconds, for each tree.
    pub(crate) nanos: [Spread; 2],
    /// The large by the small, by the medians.
    pub(crate) ratio: f64,
}

/// What empty files cost.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Memory {
    pub(crate) files: u32,
    /// Bytes that the allocator gave, per file.
    pub(crate) allocated: f64,
    /// Growth of the resident set, per file.
    pub(crate) resident: f64,
}

/// The cost of telling.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Events {
    pub(crate) sinks: usize,
    /// A write of one byte, in nanoseconds, with tracking on and these sinks, against one with
    /// tracking off.
    pub(crate) write: Race,
}

impl Report {
    /// What was to be reached.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let races = self.races.iter();
        let mut goals: Vec<Goal> = races
            .map(|race| Goal::at_most(1.0, "of tmpfs", race.what.clone(), race.ratio))
            .collect();
        for scale in &self.scale {
            let [small, large] = scale.files;
            let what = format!("{}, {large} files against {small}", scale.what);
            let ratio = Spread::of(vec![scale.ratio]);
            goals.push(Goal::at_most(2.0, "of the small tree", what, ratio));
            let what = format!("{}, {large} files", scale.what);
            goals.push(Goal::at_most(50_000.0, "ns", what, scale.nanos[1]));
        }
        let what = format!("memory per empty file, {} files", self.memory.files);
        let allocated = Spread::of(vec![self.memory.allocated]);
        goals.push(Goal::at_most(400.0, "bytes", what, allocated));
        goals
    }

    pub(crate) fn markdown(&self) -> String {
        let mut rows = Vec::new();
        for race in &self.races {
            rows.push([
                race.what.clone(),
                nanos(&race.ours),
                nanos(&race.theirs),
                format!("{} of tmpfs", ratio(&race.ratio)),
            ]);
        }
        for scale in &self.scale {
            let [small, large] = scale.files;
            rows.push([
                format!("{}, {large} files against {small}", scale.what),
                nanos(&scale.nanos[1]),
                nanos(&scale.nanos[0]),
                format!("{:.2} of the small tree", scale.ratio),
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
        let mut text = String::from(
            "| what | median (min to max) | compared with | ratio, median (min to max) |\n|---|---|---|---|\n",
        );
        for row in rows {
            // Writing to a String cannot fail.
            let _written = writeln!(text, "| {} |", row.join(" | "));
        }
        text
    }
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
