//! Findings for people and for programs: tables as text, plots as SVG, one page of HTML, JSON.

mod html;
mod part;
mod plot;
mod table;

use std::fmt::Write as _;
use std::io::{self, Write as _};

use serde::Serialize;

pub(crate) use self::html::html;
pub(crate) use self::part::{Findings, Grid, Line, Part, Plot};
pub(crate) use self::plot::svg;
pub(crate) use self::table::{Row, Table};
use crate::goal::Goal;

/// What a run prints.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    /// What was to be reached.
    goals: Vec<&'a Goal>,
    /// Everything, for people.
    markdown: String,
    /// Everything, for programs.
    data: &'a Findings,
}

/// Prints the findings: all of them as JSON, or the text.
///
/// # Errors
///
/// Fails when the standard output does.
pub(crate) fn print(findings: &Findings, as_json: bool) -> io::Result<()> {
    let markdown = markdown(findings);
    let text = if as_json {
        let printed = Printed {
            goals: findings.parts.iter().flat_map(Part::all_goals).collect(),
            markdown,
            data: findings,
        };
        serde_json::to_string_pretty(&printed)? + "\n"
    } else {
        markdown
    };
    io::stdout().write_all(text.as_bytes())
}

/// Prints goals that were not measured: their bounds, as JSON or as a table.
///
/// # Errors
///
/// Fails when the standard output does.
pub(crate) fn print_goals(goals: &[Goal], as_json: bool) -> io::Result<()> {
    let text = if as_json {
        let bounds: Vec<_> = goals
            .iter()
            .map(|it| serde_json::json!({ "what": it.what, "of": it.of, "most": it.most }))
            .collect();
        serde_json::to_string_pretty(&bounds)? + "\n"
    } else {
        let mut grid = Grid::new("", &["what", "figure", "goal"]);
        let rows = goals.iter();
        grid.rows
            .extend(rows.map(|it| vec![it.what.clone(), it.of.clone(), format!("<= {}", it.most)]));
        aligned(&grid)
    };
    io::stdout().write_all(text.as_bytes())
}

/// Returns the findings as Markdown.
fn markdown(findings: &Findings) -> String {
    let mut text = format!("{}\n`{}`\n", findings.machine, findings.command);
    for part in &findings.parts {
        // Writing to a String cannot fail.
        let _written = write!(text, "\n## {}\n\n{}\n", part.title, part.about);
        for table in &part.tables {
            if !table.title.is_empty() {
                let _written = write!(text, "\n### {}\n", table.title);
            }
            let _written = write!(text, "\n{}", aligned(table));
            for remark in &table.remarks {
                let _written = writeln!(text, "\n{remark}");
            }
        }
        for goal in &part.goals {
            let _written = writeln!(text, "\n{}", goal.sentence());
        }
    }
    text
}

/// Returns a table with columns that are as wide as their widest cell.
fn aligned(table: &Grid) -> String {
    let width = |column: usize| {
        let cells = table.rows.iter().chain([&table.head]);
        let lengths = cells.filter_map(|row| row.get(column)).map(String::len);
        lengths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table.head.len()).map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths);
        let cells: String = cells
            .map(|(cell, width)| format!(" {cell:width$} |"))
            .collect();
        format!("|{cells}\n")
    };
    let rule: String = widths
        .iter()
        .map(|width| format!("{}|", "-".repeat(width + 2)))
        .collect();
    let rows: String = table.rows.iter().map(|row| line(row)).collect();
    format!("{}|{rule}\n{rows}", line(&table.head))
}

/// Returns the machine in one line: processor, cores, kernel.
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
