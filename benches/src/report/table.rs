//! The report: where, when, with what, and the rows.

use core::fmt::Write as _;

use crate::goal::{Findings, Goal};
use crate::statistics::Spread;

/// A measured case beside its reference.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// What else this run showed, as text to follow, or nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) note: String,
    /// The figure, in the table's unit.
    pub(crate) figure: Spread,
    /// A second figure, where the table has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) also: Option<Spread>,
    /// Against the reference, round by round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<Ratio>,
}

/// A figure by that of a reference in the same round.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Ratio {
    /// The reference.
    pub(crate) of: String,
    /// Ours by theirs.
    pub(crate) spread: Spread,
    /// What it should be at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<f64>,
}

/// Rows with one heading.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Table {
    /// What they have in common.
    pub(crate) title: String,
    /// Of the figures.
    pub(crate) unit: String,
    /// Of the second figures, or nothing.
    pub(crate) also: String,
    /// In the order of the runs.
    pub(crate) rows: Vec<Row>,
    /// Goals that are no ratio of one row.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) further: Vec<Goal>,
}

impl Table {
    /// Those of its rows, and the further ones.
    #[must_use]
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let rows = self.rows.iter();
        let of_rows = rows.filter_map(|row| {
            let ratio = row.ratio.as_ref()?;
            // A row is there again for each further reference.
            let what = row.what.trim_end_matches(" (again)");
            Some(Goal::at_most(
                ratio.goal?,
                format!("of {}", ratio.of),
                format!("{}: {what}", self.title),
                ratio.spread,
            ))
        });
        of_rows.chain(self.further.iter().cloned()).collect()
    }

    /// For people.
    #[must_use]
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("\n### {}\n\n| case | {} | ", self.title, self.unit);
        let also = !self.also.is_empty();
        if also {
            // Writing to a String cannot fail.
            let _written = write!(text, "{} | ", self.also);
        }
        let _written = writeln!(
            text,
            "ratio | goal |\n|---|---|{}---|---|",
            if also { "---|" } else { "" }
        );
        for row in &self.rows {
            let _written = write!(text, "| {}{} | {} | ", row.what, row.note, row.figure);
            if also {
                let _written = write!(
                    text,
                    "{} | ",
                    row.also.map_or(String::new(), |s| s.to_string())
                );
            }
            let _written = match &row.ratio {
                Some(ratio) => writeln!(
                    text,
                    "{} of {} | {} |",
                    ratio.spread,
                    ratio.of,
                    ratio.verdict()
                ),
                None => writeln!(text, "| |"),
            };
        }
        for goal in &self.further {
            let _written = writeln!(
                text,
                "\n{}: {} {}, {}.",
                goal.what,
                goal.measured,
                goal.of,
                goal.verdict()
            );
        }
        text
    }
}

impl Ratio {
    fn verdict(&self) -> String {
        self.goal.map_or_else(String::new, |most| {
            Goal::at_most(most, "", "", self.spread).verdict()
        })
    }
}

/// Tables below a few words, and their goals.
#[must_use]
pub(crate) fn findings(head: String, tables: Vec<Table>) -> Findings<Vec<Table>> {
    Findings {
        goals: tables.iter().flat_map(Table::goals).collect(),
        markdown: head + &tables.iter().map(Table::markdown).collect::<String>(),
        data: tables,
    }
}

/// The machine, in one line.
#[must_use]
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let cores = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}
