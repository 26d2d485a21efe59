//! Medians.

use core::fmt;

/// The middle of several runs, and how far they lie apart.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize)]
pub(crate) struct Spread {
    /// Half of the runs were at most this.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The most.
    pub(crate) max: f64,
    /// Runs.
    pub(crate) runs: usize,
}

impl Spread {
    /// Of one value per run.
    ///
    /// # Panics
    /// Without any run.
    #[must_use]
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "a spread of no runs");
        values.sort_by(f64::total_cmp);
        Self {
            median: values[values.len() / 2],
            min: values[0],
            max: values[values.len() - 1],
            runs: values.len(),
        }
    }

    /// Round by round.
    #[must_use]
    pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> Self {
        Self::of(
            ours.iter()
                .zip(theirs)
                .map(|(ours, theirs)| ours / theirs)
                .collect(),
        )
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.median < 10.0 {
            2
        } else {
            usize::from(self.median < 100.0)
        };
        write!(
            f,
            "{:.digits$} ({:.digits$} to {:.digits$})",
            self.median, self.min, self.max
        )
    }
}

/// The value below which this part of the samples lies.
///
/// # Panics
/// Without any sample.
#[must_use]
pub(crate) fn percentile(samples: &mut [u64], part: f64) -> u64 {
    assert!(!samples.is_empty(), "a percentile of no samples");
    samples.sort_unstable();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let index = ((samples.len() - 1) as f64 * part) as usize;
    samples[index]
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// The middle value.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A number with three digits that count.
pub(crate) fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}
