//! One page, with everything in it.

use std::fmt::Write as _;

use super::plot::svg;
use crate::Failure;
use crate::report::{Findings, Grid};

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{margin-top:2.5rem;border-bottom:1px solid #ddd}
figure{margin:1.5rem 0}svg{max-width:100%;height:auto}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px}
caption{text-align:left;font-weight:600;padding:.4rem 0}
th,td{border:1px solid #ddd;padding:.25rem .5rem;text-align:right;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;white-space:nowrap}
th{background:#f6f6f6;font-weight:500}code{background:#f3f3f3;padding:.1rem .3rem}";

/// Returns the findings as a page that loads nothing.
pub(crate) fn html(findings: &Findings) -> Result<String, Failure> {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>agentfs-bench</title>\n<style>\n{STYLE}\n</style></head>\n<body>\n\
         <h1>What a change costs on this machine</h1>\n<p>{}<br><code>{}</code></p>\n",
        escaped(&findings.machine),
        escaped(&findings.command)
    );
    for part in &findings.parts {
        write!(
            page,
            "<section id=\"{}\">\n<h2>{}</h2>\n<p>{}</p>\n",
            escaped(&part.name),
            escaped(&part.title),
            escaped(&part.about)
        )?;
        for plot in &part.plots {
            let name = escaped(&plot.name);
            writeln!(page, "<figure id=\"{name}\">\n{}</figure>", svg(plot)?)?;
        }
        for grid in &part.tables {
            page.push_str(&table(grid));
        }
        page.push_str("</section>\n");
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

fn table(grid: &Grid) -> String {
    let cells = |row: &[String], tag: &str| {
        let cells = row
            .iter()
            .map(|it| format!("<{tag}>{}</{tag}>", escaped(it)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let rows: String = grid.rows.iter().map(|row| cells(row, "td")).collect();
    format!(
        "<div class=\"wide\"><table>\n<caption>{}</caption>\n<thead>{}</thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n",
        escaped(&grid.title),
        cells(&grid.head, "th")
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
