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

/// The rounds of several races. In each round, all races are run in the same order.
pub(super) struct Rounds<'w> {
    what: &'w [&'w str],
    all: Vec<Vec<(f64, f64)>>,
    next: usize,
}

impl<'w> Rounds<'w> {
    pub(super) fn new(what: &'w [&'w str]) -> Self {
        let all = vec![Vec::new(); what.len()];
        Self { what, all, next: 0 }
    }

    /// Begins a round: the next pair is of the first race.
    pub(super) fn begin(&mut self) {
        self.next = 0;
    }

    /// Adds the nanoseconds of the next race in this round.
    pub(super) fn push(&mut self, pair: (f64, f64)) {
        if let Some(rounds) = self.all.get_mut(self.next) {
            rounds.push(pair);
        }
        self.next += 1;
    }

    pub(super) fn races(&self) -> Vec<Race> {
        let rounds = self.what.iter().zip(&self.all);
        rounds
            .map(|(what, rounds)| Race::of(what, rounds))
            .collect()
    }
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
