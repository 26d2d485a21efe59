//! The options that the benchmarks of one stage have in common.

use clap::ValueEnum;

/// How much of a benchmark with sections is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Chosen<S: ValueEnum + Send + Sync + 'static> {
    /// Measure little: to see that it works, not to quote
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measure this alone
    #[arg(long, value_enum)]
    only: Option<S>,
}

impl<S: ValueEnum + PartialEq + Send + Sync + 'static> Chosen<S> {
    /// Returns whether the section is to be measured.
    pub(crate) fn has(&self, section: &S) -> bool {
        self.only.as_ref().is_none_or(|only| only == section)
    }
}
