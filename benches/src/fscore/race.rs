//! Two ways of the same thing, measured in turns.

use std::time::Instant;

use crate::statistics::Spread;

/// Runs `count` operations, and returns the nanoseconds of one.
pub(super) fn nanos_each(count: u32, run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64() * 1e9 / f64::from(count)
}

/// Two ways of the same thing, measured in turns so that both meet the same machine.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Race {
    pub(super) what: String,
    /// Nanoseconds each.
    pub(super) ours: Spread,
    /// Nanoseconds each, of what it is compared with.
    pub(super) theirs: Spread,
    /// Ours by theirs, round by round.
    pub(super) ratio: Spread,
}

impl Race {
    pub(super) fn of(what: &str, rounds: &[(f64, f64)]) -> Self {
        Self {
            what: what.to_owned(),
            ours: Spread::of(rounds.iter().map(|round| round.0).collect()),
            theirs: Spread::of(rounds.iter().map(|round| round.1).collect()),
            ratio: Spread::of(rounds.iter().map(|round| round.0 / round.1).collect()),
        }
    }
}
