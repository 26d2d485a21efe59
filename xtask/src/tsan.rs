//! `cargo xtask tsan`: runs ThreadSanitizer over what threads share.

use crate::nightly;
use crate::report::{Outcome, Report};
use crate::tools::target_dir;

/// The unit and integration tests of the ring.
const RING: &[&str] = &["-p", "agentfs-ring", "--lib", "--tests"];

/// The daemon's tests of its locks, which run one after the other: each has a minute, keeps both
/// cores of a small machine busy by itself, and runs some ten times slower than without the
/// sanitizer, so it does a fifth of its rounds.
const LOCKING: &[&str] = &[
    "-p",
    "agentfs-daemon",
    "--test",
    "it",
    "locking",
    "--",
    "--test-threads=1",
];

#[derive(clap::Args, Default)]
#[command(after_help = "Examples:\n  \
    cargo xtask tsan\n  \
    cargo xtask tsan --ring    the ring's tests only, which build in a minute")]
pub(crate) struct Args {
    /// Only the ring's tests
    #[arg(long)]
    ring: bool,
}

impl Args {
    pub(crate) fn only_ring() -> Self {
        Self { ring: true }
    }
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    if !install(report) {
        return;
    }
    test(report, "tsan: ring", RING);
    if !args.ring {
        test(report, "tsan: locking", LOCKING);
    }
}

/// Makes sure that nightly is there, with the source of its library. Returns false if it cannot be had.
pub(crate) fn install(report: &mut Report) -> bool {
    report.step("tsan: the standard library's source", || {
        nightly::with_source()?;
        Ok(Outcome::Done)
    })
}

/// Runs tests in which every access to memory is watched. The standard library is built in the same
/// way: without that, the orderings that its locks and channels give would be invisible.
fn test(report: &mut Report, name: &str, args: &[&str]) {
    match nightly::cargo("test") {
        Ok(mut command) => {
            command
                .args([
                    "-Zbuild-std",
                    "--target",
                    &nightly::target(),
                    "--target-dir",
                ])
                .arg(target_dir("tsan"))
                .args(args)
                .env("AGENTFS_LOCKING_PART", "5")
                .env("RUSTFLAGS", "-Zsanitizer=thread");
            report.test_step(name, &mut command);
        }
        Err(why) => {
            report.step(name, || Err(why));
        }
    }
}
