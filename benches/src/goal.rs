//! What was to be reached, and what was.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::statistics::Spread;

/// A goal with what the run measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    /// What was measured.
    pub(crate) what: String,
    /// What the figure counts, or by what it was divided.
    pub(crate) of: String,
    /// The figure.
    pub(crate) measured: Spread,
    /// What it should be at most.
    pub(crate) most: f64,
    /// Whether it is.
    pub(crate) verdict: Verdict,
}

/// Whether a goal is reached, by the median of the runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It is.
    Met,
    /// It is not.
    Missed,
}

impl Goal {
    /// Of a figure that should be small.
    pub(crate) fn at_most(
        most: f64,
        of: impl Into<String>,
        what: impl Into<String>,
        measured: Spread,
    ) -> Self {
        Self {
            what: what.into(),
            of: of.into(),
            measured,
            most,
            verdict: if measured.median <= most {
                Verdict::Met
            } else {
                Verdict::Missed
            },
        }
    }

    /// The bound, and whether it is kept: for people.
    #[must_use]
    pub(crate) fn verdict(&self) -> String {
        match self.verdict {
            Verdict::Met => format!("<= {}: met", self.most),
            Verdict::Missed => format!("<= {}: **missed**", self.most),
        }
    }
}

/// What a benchmark prints.
#[derive(Debug, Serialize)]
pub(crate) struct Findings<T> {
    /// What it was to reach.
    pub(crate) goals: Vec<Goal>,
    /// Everything, for people.
    pub(crate) markdown: String,
    /// Everything, for programs.
    pub(crate) data: T,
}

impl<T: Serialize> Findings<T> {
    /// Prints it all as JSON, or what is for people.
    ///
    /// # Errors
    /// When the standard output takes nothing.
    pub(crate) fn print(&self, as_json: bool) -> io::Result<()> {
        let text = if as_json {
            serde_json::to_string_pretty(self)? + "\n"
        } else {
            self.markdown.clone()
        };
        io::stdout().write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_good_as_the_goal_meets_it() {
        let verdict = |median| Goal::at_most(1.0, "", "", Spread::of(vec![median])).verdict;
        assert_eq!(verdict(1.0), Verdict::Met);
        assert_eq!(verdict(1.01), Verdict::Missed);
        assert_eq!(verdict(f64::NAN), Verdict::Missed);
    }
}
