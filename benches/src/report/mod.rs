//! Findings for people: tables as text, plots as SVG, one page of HTML.

mod html;
pub(crate) mod part;
mod plot;
pub(crate) mod table;

use std::fmt::Write as _;

pub(crate) use self::html::html;
pub(crate) use self::plot::svg;
use crate::report::part::{Findings, Grid};

/// Markdown.
pub(crate) fn text(findings: &Findings) -> String {
    let mut text = format!("{}\n`{}`\n", findings.machine, findings.command);
    for part in &findings.parts {
        // Writing to a String cannot fail.
        let _written = write!(text, "\n## {}\n\n{}\n", part.title, part.about);
        for table in &part.tables {
            let _written = write!(text, "\n### {}\n\n{}", table.title, markdown(table));
        }
        for goal in &part.goals {
            let (what, of) = (&goal.what, &goal.of);
            let _written = writeln!(
                text,
                "\n{what}: {} {of}, {}.",
                goal.measured,
                goal.verdict()
            );
        }
    }
    text
}

fn markdown(table: &Grid) -> String {
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
