//! docs/benchmarks.md: one part for each benchmark and the table of all goals, which only
//! benchmarks write.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::report::Failure;

pub(super) const DOCUMENT: &str = "docs/benchmarks.md";

const GOALS: &str = "goals";
const GOALS_HEAD: &str = "\
## Goals

Each row comes from the run whose tables are below under the same name.
A figure is the median of the run's rounds, with the least and the most.

| benchmark | what | measured | goal | verdict |
|---|---|---|---|---|
";

/// The output of a benchmark run with `--json`.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Findings {
    goals: Vec<Goal>,
    pub(super) markdown: String,
}

#[derive(Debug, serde::Deserialize)]
struct Goal {
    what: String,
    of: String,
    measured: Value,
    most: f64,
    verdict: String,
}

impl Findings {
    /// Returns one row for each goal.
    pub(super) fn goal_rows(&self, name: &str) -> String {
        self.goals.iter().map(|goal| goal.row(name)).collect()
    }

    /// Returns how many goals there are, and how many are missed.
    pub(super) fn missed(&self) -> (usize, usize) {
        let missed = self.goals.iter().filter(|goal| goal.verdict != "met");
        (self.goals.len(), missed.count())
    }
}

impl Goal {
    fn row(&self, name: &str) -> String {
        let figure = |name: &str| short(self.measured[name].as_f64().unwrap_or(f64::NAN));
        let [median, min, max] = ["median", "min", "max"].map(figure);
        let spread = if min == max {
            median
        } else {
            format!("{median} ({min} to {max})")
        };
        let verdict = match self.verdict.as_str() {
            "met" => "met",
            _ => "**missed**",
        };
        format!(
            "| {name} | {} | {spread} {} | <= {} | {verdict} |\n",
            self.what,
            self.of,
            short(self.most)
        )
    }
}

/// Formats three digits, or all digits of a whole number.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        whole if whole.fract() == 0.0 => 0,
        large if large >= 100.0 => 0,
        tens if tens >= 10.0 => 1,
        ones if ones >= 0.1 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Puts a benchmark's tables and goals in the place of its earlier ones.
pub(super) fn keep(name: &str, head: &str, findings: &Findings) -> Result<(), Failure> {
    let document = fs::read_to_string(DOCUMENT).unwrap_or_default();
    let renewed = renewed(&document, name, head, findings);
    fs::write(Path::new(DOCUMENT), renewed)
        .map_err(|error| Failure::new(format!("{DOCUMENT}: {error}")))
}

fn renewed(document: &str, name: &str, head: &str, findings: &Findings) -> String {
    let mut rows: Vec<String> = part(document, GOALS)
        .unwrap_or_default()
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .filter(|row| row.starts_with("| ") && !row.starts_with(&format!("| {name} |")))
        .map(str::to_owned)
        .collect();
    rows.extend(findings.goal_rows(name).lines().map(str::to_owned));
    // The goals are in the order of the flow; within one benchmark they keep their order.
    rows.sort_by_key(|row| {
        let of = row.split('|').nth(1).unwrap_or_default().trim();
        super::BENCHMARKS.iter().position(|it| it.name == of)
    });
    let goals = format!("{GOALS_HEAD}{}", rows.join("\n"));
    let with_goals = replaced(document, GOALS, &goals);
    let text = format!("## {name}\n\n{head}\n\n{}", findings.markdown);
    replaced(&with_goals, name, &text)
}

fn marks(name: &str) -> (String, String) {
    (
        format!("<!-- bench {name} -->"),
        format!("<!-- end {name} -->"),
    )
}

/// Returns the text between the marks of a part.
fn part<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (begin, end) = marks(name);
    let (_, rest) = document.split_once(&begin)?;
    Some(rest.split_once(&end)?.0)
}

/// Returns the document with another text in a part. A part that is missing is added at the end.
fn replaced(document: &str, name: &str, text: &str) -> String {
    let (begin, end) = marks(name);
    let part = format!("{begin}\n{}\n{end}\n", text.trim_end());
    let before_and_rest = document.split_once(&begin);
    match before_and_rest.and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1))) {
        Some((before, after)) => format!("{before}{part}{}", after.trim_start_matches('\n')),
        None => format!("{document}\n{part}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(table: &str, median: f64, verdict: &str) -> Findings {
        let spread = serde_json::json!({ "median": median, "min": 0.5, "max": 2.0 });
        let goal = Goal {
            what: "a copy".to_owned(),
            of: "of a read".to_owned(),
            measured: spread,
            most: 1.0,
            verdict: verdict.to_owned(),
        };
        Findings {
            goals: vec![goal],
            markdown: table.to_owned(),
        }
    }

    #[test]
    fn table_takes_the_place_of_the_old_one() {
        let first = renewed(
            "# Benchmarks\n",
            "ring",
            "old head",
            &findings("old", 0.9, "met"),
        );
        let both = renewed(&first, "fscore", "", &findings("other", 0.9, "met"));
        let again = renewed(&both, "ring", "new head", &findings("new", 0.9, "met"));
        assert!(!again.contains("old"), "{again}");
        assert!(again.find("new") < again.find("other"), "{again}");
        let once_more = renewed(&again, "ring", "new head", &findings("new", 0.9, "met"));
        assert_eq!(once_more, again);
    }

    #[test]
    fn goals_of_a_benchmark_are_renewed_and_those_of_others_stay() {
        let first = renewed("", "route", "", &findings("", 1.5, "missed"));
        let row = "| route | a copy | 1.50 (0.50 to 2) of a read | <= 1 | **missed** |\n";
        assert!(first.contains(row), "{first}");
        let both = renewed(&first, "ring", "", &findings("", 0.25, "met"));
        let rows = format!("| ring | a copy | 0.25 (0.50 to 2) of a read | <= 1 | met |\n{row}");
        assert!(both.contains(&rows), "{both}");
        let better = renewed(&both, "route", "", &findings("", 0.75, "met"));
        assert!(!better.contains("missed"), "{better}");
        assert_eq!(better.matches("| a copy |").count(), 2, "{better}");
    }
}
