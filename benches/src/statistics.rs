//! Medians and how far the runs lie apart, percentiles, ratios.

use core::fmt;

/// The median of several runs, with the least and the most.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize)]
pub(crate) struct Spread {
    /// Half of the runs were at most this.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The most.
    pub(crate) max: f64,
    runs: usize,
}

impl Spread {
    /// Creates the spread of one value for each run; without any run its values are not numbers.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: at(values.len() / 2),
            min: at(0),
            max: at(values.len().saturating_sub(1)),
            runs: values.len(),
        }
    }

    /// Creates the spread of the ratios, round by round.
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

/// Returns the value below which this part of the samples lies.
///
/// # Panics
///
/// Panics when there is no sample.
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

/// Returns a count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// Returns nanoseconds as microseconds.
pub(crate) fn micros(nanos: u64) -> f64 {
    float(nanos) / 1000.0
}

/// Returns the middle value, or 0 when there is none.
pub(crate) fn median(values: Vec<f64>) -> f64 {
    let median = Spread::of(values).median;
    if median.is_nan() { 0.0 } else { median }
}

/// Returns a number as text, with its first three digits.
pub(crate) fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}
