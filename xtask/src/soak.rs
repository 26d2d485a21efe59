//! `cargo xtask soak`: runs the soak.

use std::time::Duration;

use crate::report::{Outcome, Report, run as run_command, run_within};
use crate::tools::cargo;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask soak\n  \
    cargo xtask soak --seconds 20 --seed 7")]
pub(crate) struct Args {
    /// How long the load runs
    #[arg(long, default_value_t = 180)]
    seconds: u64,
    /// The seed of the random numbers: the same one repeats a run, but for the timing of its processes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            seconds: 180,
            seed: 1,
        }
    }
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    report.step("soak", || {
        run_command(cargo().args(["build", "--quiet", "--package", "agentfs-soak"]))?;
        // Each of the soak's processes is given two minutes for an answer.
        run_within(
            Duration::from_secs(args.seconds) + Duration::from_secs(300),
            cargo()
                .args(["run", "--quiet", "--package", "agentfs-soak", "--"])
                .args(["--seconds", &args.seconds.to_string()])
                .args(["--seed", &args.seed.to_string()]),
        )?;
        Ok(Outcome::Done)
    });
}
