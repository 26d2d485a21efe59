//! What the program states as goals, and the rows of docs/benchmarks.md.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::run;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md");

/// A goal without the figure: what, of what, and the bound as the document has it.
type Row = (String, String, String);

/// Returns the rows of a benchmark in the table of goals.
fn rows(document: &str, name: &str) -> BTreeSet<Row> {
    let lines = document.lines();
    let rows = lines.filter_map(|line| line.strip_prefix(&format!("| {name} | ")));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [what, measured, bound, ..] = cells.as_slice() else {
            panic!("a row without a goal: {row}");
        };
        // A figure, perhaps with its least and its most, and then what it is.
        let (_, rest) = measured.split_once(' ').unwrap();
        let of = match rest.strip_prefix('(') {
            Some(spread) => spread.split_once(") ").unwrap().1,
            None => rest,
        };
        ((*what).to_owned(), of.to_owned(), (*bound).to_owned())
    });
    rows.collect()
}

/// Returns what a command states, with its bounds as the document has them.
fn stated(command: &str) -> BTreeSet<Row> {
    let words = command.split(' ').filter(|it| !it.is_empty());
    let words: Vec<&str> = words.chain(["--list-goals"]).collect();
    let goals: Value = serde_json::from_str(&run(&words)).unwrap();
    let goals = goals.as_array().unwrap().iter().map(|goal| {
        let text = |name: &str| goal[name].as_str().unwrap().to_owned();
        let most = goal["most"].as_f64().unwrap();
        let bound = match most {
            whole if whole.fract() == 0.0 => format!("<= {whole:.0}"),
            ones if ones >= 0.1 => format!("<= {ones:.2}"),
            less => format!("<= {less:.3}"),
        };
        (text("what"), text("of"), bound)
    });
    goals.collect()
}

#[test]
fn every_goal_keeps_its_row() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let parts = document.split("<!-- bench ").skip(1);
    let mut count = 0;
    for part in parts {
        let (name, text) = part.split_once(" -->").unwrap();
        if name == "goals" {
            continue;
        }
        // Each part has the command line of its run.
        let (_, command) = text.split_once("`agentfs-bench ").unwrap();
        let (command, _) = command.split_once('`').unwrap();
        let rows = rows(&document, name);
        assert_eq!(stated(command), rows, "{name}");
        count += rows.len();
    }
    let is_goal = |line: &&str| line.ends_with("| met |") || line.ends_with("| **missed** |");
    let all = document.lines().filter(is_goal);
    assert_eq!(count, all.count(), "rows of the table of goals");
}
