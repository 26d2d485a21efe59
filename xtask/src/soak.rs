//! `cargo xtask soak`: runs the soak.

use std::process::Command;
use std::time::Duration;

use crate::report::{Outcome, Report, run as run_command, run_within};
use crate::tools::{cargo, target_dir};

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
    /// Whether the tests have built the program already. Built by itself it has other features, and all
    /// that it depends on is built once more.
    #[arg(skip)]
    is_built: bool,
}

impl Args {
    /// Returns the minute of CI, after the tests. A job of its own has the three minutes.
    pub(crate) fn after_tests() -> Self {
        Self {
            seconds: 60,
            seed: 1,
            is_built: true,
        }
    }
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    report.step("soak", || {
        let mut soak = if args.is_built {
            Command::new(target_dir("debug").join("agentfs-soak"))
        } else {
            run_command(cargo().args(["build", "--quiet", "--package", "agentfs-soak"]))?;
            let mut command = cargo();
            command.args(["run", "--quiet", "--package", "agentfs-soak", "--"]);
            command
        };
        // Each of the soak's processes is given two minutes for an answer.
        run_within(
            Duration::from_secs(args.seconds) + Duration::from_secs(300),
            soak.args(["--seconds", &args.seconds.to_string()])
                .args(["--seed", &args.seed.to_string()]),
        )?;
        Ok(Outcome::Done)
    });
}
