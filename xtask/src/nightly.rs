//! The nightly toolchain, for what has no flags in stable: sanitizers, coverage and Miri.

use std::process::{Command, Stdio};

use crate::report::{Failure, run as run_command};

/// Returns the name of this machine's own target. When a target is named, flags do not reach build
/// scripts and macros.
pub(crate) fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Returns nightly's cargo with this subcommand. Installs nightly when rustup does not have it.
pub(crate) fn cargo(subcommand: &str) -> Result<Command, Failure> {
    installed()?;
    let mut command = rustup();
    command.args(["run", "nightly", "cargo", subcommand]);
    Ok(command)
}

/// Makes sure that nightly has the source of the standard library, to build it with a sanitizer.
pub(crate) fn with_source() -> Result<(), Failure> {
    installed()?;
    // The command is quick when the source is already there.
    install(&["component", "add", "rust-src", "--toolchain", "nightly"])
}

/// Installs nightly when rustup does not have it.
fn installed() -> Result<(), Failure> {
    if has(&["rustc", "--version"]) {
        return Ok(());
    }
    install(&["toolchain", "install", "nightly", "--profile", "minimal"])
}

/// Returns whether nightly runs this command.
pub(crate) fn has(args: &[&str]) -> bool {
    rustup()
        .args(["run", "nightly"])
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn install(args: &[&str]) -> Result<(), Failure> {
    run_command(rustup().arg("--quiet").args(args)).map_err(|why| {
        Failure::new(format!(
            "{why}; needs nightly: run `rustup {}`",
            args.join(" ")
        ))
    })
}

fn rustup() -> Command {
    let mut command = Command::new("rustup");
    // The cargo that runs this program has set these for its own toolchain.
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command
}
