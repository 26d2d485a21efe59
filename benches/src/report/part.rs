//! What a run has found: tables for people, lines for plots, and the raw numbers.

use crate::goal::Goal;
use serde::Serialize;

/// One or more parts, measured on one machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Findings {
    /// Processor, cores, kernel.
    pub(crate) machine: String,
    /// What was typed.
    pub(crate) command: String,
    /// Seconds since the epoch.
    pub(crate) time: u64,
    pub(crate) parts: Vec<Part>,
}

/// What one part has found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) title: String,
    /// What was measured, and how to read it.
    pub(crate) about: String,
    pub(crate) tables: Vec<Grid>,
    pub(crate) plots: Vec<Plot>,
    /// What was to be reached, of what was measured.
    pub(crate) goals: Vec<Goal>,
    /// Every number, for programs.
    pub(crate) raw: serde_json::Value,
}

/// A table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Grid {
    pub(crate) title: String,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
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

impl Grid {
    pub(crate) fn new(title: impl Into<String>, head: &[&str]) -> Self {
        Self {
            title: title.into(),
            head: head.iter().map(|it| (*it).to_owned()).collect(),
            rows: Vec::new(),
        }
    }
}
