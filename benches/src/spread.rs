//! Medians.

use core::fmt;

/// The middle of several runs, and how far they lie apart.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize)]
pub struct Spread {
    /// Half of the runs were at most this.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// Runs.
    pub runs: usize,
}

impl Spread {
    /// Of one value per run.
    ///
    /// # Panics
    /// Without any run.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
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
    pub fn ratio(ours: &[f64], theirs: &[f64]) -> Self {
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
pub fn percentile(samples: &mut [u64], part: f64) -> u64 {
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
