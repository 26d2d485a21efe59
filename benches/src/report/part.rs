//! What a run has found: tables, lines for plots, goals, and the raw numbers.

use serde::Serialize;

use super::Table;
use crate::Failure;
use crate::goal::Goal;

/// One or more parts, measured on one machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Findings {
    /// Processor, cores, kernel.
    pub(crate) machine: String,
    /// The command line.
    pub(crate) command: String,
    /// Seconds since the epoch.
    pub(crate) time: u64,
    pub(crate) parts: Vec<Part>,
}

/// What one command has found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) title: String,
    /// What was measured, and how to read it.
    pub(crate) about: String,
    pub(crate) tables: Vec<Grid>,
    pub(crate) plots: Vec<Plot>,
    /// What was to be reached, beside the goals of the tables.
    pub(crate) goals: Vec<Goal>,
    /// Every number, for programs.
    pub(crate) raw: serde_json::Value,
}

/// A table as text.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Grid {
    /// The heading, or nothing where a part has one table.
    pub(crate) title: String,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    /// What the figures in it were to reach.
    #[serde(skip)]
    pub(crate) goals: Vec<Goal>,
    /// Sentences that follow it.
    pub(crate) remarks: Vec<String>,
}

/// Lines in one system of axes, both logarithmic.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plot {
    /// Its file name, without an ending.
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) y: String,
    pub(crate) lines: Vec<Line>,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Part {
    /// Creates a part of tables that compare cases with their references.
    ///
    /// # Errors
    ///
    /// Fails when the numbers cannot be written as JSON.
    pub(crate) fn compared(
        name: &str,
        title: &str,
        about: String,
        tables: &[Table],
    ) -> Result<Self, Failure> {
        Ok(Self {
            name: name.to_owned(),
            title: title.to_owned(),
            about,
            tables: tables.iter().map(Table::grid).collect(),
            plots: Vec::new(),
            goals: Vec::new(),
            raw: serde_json::to_value(tables)?,
        })
    }

    /// Returns the goals of the tables, and the part's own.
    pub(crate) fn all_goals(&self) -> impl Iterator<Item = &Goal> {
        let of_tables = self.tables.iter().flat_map(|table| &table.goals);
        of_tables.chain(&self.goals)
    }
}

impl Grid {
    pub(crate) fn new(title: impl Into<String>, head: &[&str]) -> Self {
        Self {
            title: title.into(),
            head: head.iter().map(|it| (*it).to_owned()).collect(),
            rows: Vec::new(),
            goals: Vec::new(),
            remarks: Vec::new(),
        }
    }
}
