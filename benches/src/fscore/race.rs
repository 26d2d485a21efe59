//! Rounds, medians and ratios.

use std::time::{Duration, Instant};

pub(crate) use crate::statistics::Spread;

/// Nanoseconds for one of `count` operations.
pub(crate) fn nanos_each(count: u32, run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    each(start.elapsed(), count)
}

pub(crate) fn each(elapsed: Duration, count: u32) -> f64 {
    elapsed.as_secs_f64() * 1e9 / f64::from(count)
}

/// Two ways of the same thing, measured in turns so that both meet the same machine.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Race {
    pub(crate) what: String,
    /// Nanoseconds each.
    pub(crate) ours: Spread,
    /// Nanoseconds each, of what it is compared with.
    pub(crate) theirs: Spread,
    /// Ours by theirs, round by round.
    pub(crate) ratio: Spread,
}

impl Race {
    pub(crate) fn of(what: &str, rounds: &[(f64, f64)]) -> Self {
        Self {
            what: what.to_owned(),
            ours: Spread::of(rounds.iter().map(|round| round.0).collect()),
            theirs: Spread::of(rounds.iter().map(|round| round.1).collect()),
            ratio: Spread::of(rounds.iter().map(|round| round.0 / round.1).collect()),
        }
    }
}
