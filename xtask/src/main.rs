//! The one way to run this project's checks. `cargo xtask --help` lists them.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]

mod bench;
mod compat;
mod fuzz;
mod lane;
mod lint;
mod loom;
mod macos;
mod miri;
mod nightly;
mod package;
mod process_tree;
mod publish;
mod report;
mod soak;
mod test;
mod tidy;
mod tools;
mod tsan;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::lane::Lane;
use crate::report::Report;

/// Runs this project's checks. Every command prints what it runs and how long that took, and closes
/// with a summary; the exit status is 0 only if everything passed.
#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    after_help = "Examples:\n  \
    cargo xtask test             everything a fresh machine can check\n  \
    cargo xtask lint             what a change must pass before it is looked at\n  \
    cargo xtask loom --mutants   prove that the models catch each weakened ordering\n  \
    cargo xtask bench ring       measure the ring beside its peers\n  \
    cargo xtask ci               everything: what CI runs"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run unit, integration, end-to-end and documentation tests, and the ring's models
    Test(test::Args),
    /// Run the models of the ring and its doorbell: interleavings of a few records up to a number of preemptions
    Loom(loom::Args),
    /// Type-check for macOS and FreeBSD, link the shim, and prove its hooks, without a Mac
    Macos(macos::Args),
    /// Run other people's watcher programs in a mounted branch, and compare with docs/compatibility.md
    Compat(compat::Args),
    /// Run random load with faults, and account for every change
    Soak(soak::Args),
    /// Build the Debian package, install it into a root of its own, and use it from there
    Package(package::Args),
    /// Package the library crates as for crates.io, and send nothing
    Publish(publish::Args),
    /// Run the fuzz targets, ten seconds each: any bytes that a peer could send
    Fuzz(fuzz::Args),
    /// Run the ring's tests and the daemon's tests of its locks under ThreadSanitizer
    Tsan(tsan::Args),
    /// Run unit tests of the ring and the protocol under Miri, where Miri is installed
    Miri,
    /// Run a benchmark and print its table
    Bench(bench::Args),
    /// Check formatting, clippy, rustdoc, dependency rules, and the project's own rules
    Lint(lint::Args),
    /// Run everything: lint, test, loom, soak, compat, package, publish, fuzz, tsan, macos
    #[command(after_help = "Example:\n  cargo xtask ci")]
    Ci,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = std::env::set_current_dir(tools::root()) {
        eprintln!("{}: {error}", tools::root().display());
        return ExitCode::FAILURE;
    }
    let mut report = Report::new();
    match &cli.command {
        Command::Test(args) => test::run(&mut report, args),
        Command::Loom(args) => loom::run(&mut report, args),
        Command::Macos(args) => macos::run(&mut report, args),
        Command::Compat(args) => compat::run(&mut report, args),
        Command::Soak(args) => soak::run(&mut report, args),
        Command::Package(args) => package::run(&mut report, args),
        Command::Publish(args) => publish::run(&mut report, args),
        Command::Fuzz(args) => fuzz::run(&mut report, args),
        Command::Tsan(args) => tsan::run(&mut report, args),
        Command::Miri => miri::run(&mut report),
        Command::Bench(args) => bench::run(&mut report, args),
        Command::Lint(args) => lint::run(&mut report, args),
        Command::Ci => ci(&mut report),
    }
    report.finish()
}

/// Runs everything. What keeps only one core of a small machine busy runs beside something else; no
/// test of the workspace does, because many wait for other programs.
fn ci(report: &mut Report) {
    lint::run(report, &lint::Args::default());
    test::install_runner(report);
    test::without_models(report, &test::Args::default());

    let models = Lane::start("models", &["loom"]);
    soak::run(report, &soak::Args::after_tests());
    compat::run(report, &compat::Args::default());
    models.join(report);

    let mutants = Lane::start("mutants", &["loom", "--mutants"]);
    package::run(report, &package::Args { dev: true });
    publish::run(report, &publish::Args::default());
    mutants.join(report);

    // Both need nightly, and two processes may not install it at once. The locks of the daemon under
    // the sanitizer take two minutes, and are a job of their own (.github/workflows/ci.yml).
    tsan::install(report);
    let fuzz = Lane::start("fuzz", &["fuzz", "--seconds", "5"]);
    tsan::run(report, &tsan::Args::only_ring());
    fuzz.join(report);

    macos::run(report, &macos::Args::default());
}
