//! What was to be reached, and what was.

use serde::Serialize;

use crate::statistics::Spread;

/// A goal with what the run measured.
///
/// Where nothing was measured, because only the goals are listed, the figure is not a number.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    /// What was measured.
    pub(crate) what: String,
    /// What the figure counts, or by what it was divided.
    pub(crate) of: String,
    /// The figure.
    measured: Spread,
    /// The most that it should be.
    pub(crate) most: f64,
    /// Whether it is.
    verdict: Verdict,
}

/// Whether a goal is reached, by the median of the runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Met,
    Missed,
}

impl Goal {
    /// Creates the goal of a figure that should be small.
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

    /// Returns the bound, and whether the figure keeps it.
    pub(crate) fn verdict(&self) -> String {
        match self.verdict {
            Verdict::Met => format!("<= {}: met", self.most),
            Verdict::Missed => format!("<= {}: **missed**", self.most),
        }
    }

    /// Returns the figure with what it counts.
    pub(crate) fn figure(&self) -> String {
        format!("{} {}", self.measured, self.of)
    }

    /// Returns all of it in one line.
    pub(crate) fn sentence(&self) -> String {
        let Self {
            what, of, measured, ..
        } = self;
        format!("{what}: {measured} {of}, {}.", self.verdict())
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
