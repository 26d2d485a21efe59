//! `cargo xtask fuzz`: runs the targets of `fuzz/`, each for a short time.
//!
//! cargo-fuzz runs them when it is installed. Without it the same flags are passed to rustc from
//! here, so that nobody waits for it to be built.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::nightly;
use crate::report::{Failure, Outcome, Report, StepResult, run as run_command, run_within};
use crate::tools::{IS_LINUX, cargo, find, root, target_dir};

/// The targets, as `fuzz/Cargo.toml` has them.
const TARGETS: [&str; 4] = [
    "ring_consumer",
    "ring_producer",
    "control_frames",
    "request_words",
];

/// What cargo-fuzz passes to rustc: coverage for libFuzzer, and AddressSanitizer.
const FLAGS: [&str; 10] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
    "-Zsanitizer=address",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask fuzz\n  \
    cargo xtask fuzz control_frames --seconds 600\n\n\
    An input that fails is kept in fuzz/artifacts/TARGET; the program that is printed with it runs \
    that input again when it is given its path.")]
pub(crate) struct Args {
    /// Run only this target
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    if !IS_LINUX {
        report.step("fuzz", || {
            Ok(Outcome::Skipped("the targets write to memfds".to_owned()))
        });
        return;
    }
    // No command of the workspace checks the format of another workspace.
    report.step("fuzz: format", || {
        run_command(cargo().args(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]))?;
        Ok(Outcome::Done)
    });
    let has_cargo_fuzz = find("cargo-fuzz").is_some();
    if !has_cargo_fuzz && !report.step("fuzz: build", build) {
        return;
    }
    for target in TARGETS {
        if args.target.as_deref().is_none_or(|only| only == target) {
            report.step(&format!("fuzz {target}"), || {
                fuzz(target, args.seconds, has_cargo_fuzz)
            });
        }
    }
}

/// Builds all targets, in a target directory of their own.
fn build() -> StepResult {
    run_command(
        nightly::cargo("build")?
            .args(["--quiet", "--release", "--bins", "--manifest-path"])
            .arg("fuzz/Cargo.toml")
            .args(["--target", &nightly::target(), "--target-dir"])
            .arg(target_dir("fuzz"))
            .env("RUSTFLAGS", FLAGS.join(" ")),
    )?;
    Ok(Outcome::Done)
}

/// Runs one target. What it finds on the way is kept for the next run in `fuzz/corpus`, which git
/// does not know; the seeds it starts from are in `fuzz/seeds`.
fn fuzz(target: &str, seconds: u64, has_cargo_fuzz: bool) -> StepResult {
    let folder = root().join("fuzz");
    let corpus = folder.join("corpus").join(target);
    let artifacts = folder.join("artifacts").join(target);
    for folder in [&corpus, &artifacts] {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::new(format!("{}: {error}", folder.display())))?;
    }
    let seeds = folder.join("seeds").join(target);
    let options = Options { seconds, artifacts };
    let mut command = if has_cargo_fuzz {
        let mut command = nightly::cargo("fuzz")?;
        command.args(["run", "--fuzz-dir", "fuzz", target]);
        command.args([&corpus, &seeds]).arg("--");
        command
    } else {
        let mut command = Command::new(binary(target));
        command.args([&corpus, &seeds]);
        command
    };
    options.add_to(&mut command);
    // A run exceeds its time only for the last input, and with cargo-fuzz for the build.
    run_within(Duration::from_secs(seconds + 600), &mut command)?;
    Ok(Outcome::Note(format!("{seconds} s")))
}

fn binary(target: &str) -> PathBuf {
    target_dir("fuzz")
        .join(nightly::target())
        .join("release")
        .join(target)
}

struct Options {
    seconds: u64,
    artifacts: PathBuf,
}

impl Options {
    /// Passes libFuzzer's own options.
    fn add_to(&self, command: &mut Command) {
        let artifacts = with_slash(&self.artifacts);
        command
            .arg(format!("-max_total_time={}", self.seconds))
            .arg(format!("-artifact_prefix={artifacts}"))
            // An input that takes longer makes the code loop without end.
            .args([
                "-timeout=10",
                "-max_len=8192",
                "-print_final_stats=0",
                "-verbosity=0",
            ]);
    }
}

fn with_slash(path: &Path) -> String {
    format!("{}/", path.display())
}
