//! The results of a run.

use std::io::Write as _;

use serde::Serialize;

use crate::Failure;
use crate::check::Account;
use crate::run::{Args, Faults};

/// The account of the changes of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) changes: u64,
    /// How many daemons there were, one after the other.
    pub(crate) lives: u64,
    pub(crate) faults: Faults,
    /// The account of each listener, by the listener's name.
    pub(crate) accounts: Vec<(&'static str, Account)>,
}

const HEAD: [&str; 7] = [
    "listener",
    "delivered",
    "coalesced",
    "in differences",
    "in overflows",
    "lost with a killed daemon",
    "unaccounted",
];

impl Report {
    /// Prints the results, as a table or as JSON.
    ///
    /// # Errors
    /// Fails when a change is not accounted for.
    pub(crate) fn print(&self, args: &Args) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        if args.json {
            writeln!(out, "{}", serde_json::to_string_pretty(self)?)?;
        } else {
            writeln!(out, "{}", self.text(args))?;
        }
        let mut is_clean = true;
        for (name, account) in &self.accounts {
            is_clean &= account.is_clean();
            for complaint in &account.complaints {
                writeln!(std::io::stderr(), "{name}: {complaint}")?;
            }
        }
        if is_clean {
            return Ok(());
        }
        Err(format!("not every change is accounted for; --seed {}", args.seed).into())
    }

    fn text(&self, args: &Args) -> String {
        let Args { seconds, seed, .. } = args;
        let Faults {
            daemons_killed,
            daemons_ended,
            listeners_killed,
        } = self.faults;
        let (changes, lives) = (self.changes, self.lives);
        let mut text = format!(
            "Random changes for {seconds} s, seed {seed}. {daemons_killed} daemons were killed and \
             {daemons_ended} ended, {listeners_killed} listeners were killed.\n\n\
             What became of {changes} changes, {lives} daemons:\n\n"
        );
        let rows = self.accounts.iter().map(|(name, it)| {
            let counts = [
                it.delivered,
                it.coalesced,
                it.healed,
                it.overflowed,
                it.died,
                it.unaccounted,
            ];
            let cells = counts.map(|count| count.to_string());
            [(*name).to_owned()].into_iter().chain(cells).collect()
        });
        let head = HEAD.map(str::to_owned).to_vec();
        for row in [head].into_iter().chain(rows) {
            text += &line(&row);
        }
        text
    }
}

/// Returns a row, each cell as wide as the head of its column or a little more.
fn line(row: &[String]) -> String {
    let cells = row.iter().zip(HEAD);
    let cells: Vec<String> = cells
        .map(|(cell, head)| format!("{cell:>width$}", width = head.len().max(13)))
        .collect();
    cells.join("  ") + "\n"
}
