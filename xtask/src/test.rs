//! `cargo xtask test`.

use std::path::PathBuf;

use crate::loom;
use crate::report::{Failure, Outcome, Report};
use crate::tools::{NODE, cargo, from_cargo, from_pip};

/// The file system exerciser, and its version on crates.io.
const FSX: (&str, &str) = ("fsx", "0.3.2");

#[derive(clap::Args, Default)]
#[command(after_help = "Examples:\n  \
    cargo xtask test\n  \
    cargo xtask test -p agentfs-ring\n  \
    cargo xtask test -p agentfs-core rename\n  \
    MACOS_E2E=1 cargo xtask test      also the suites that need a real Mac")]
pub(crate) struct Args {
    /// Only this package, and without the models; may be given several times
    #[arg(short, long)]
    package: Vec<String>,
    /// Only tests with this in their name
    filter: Option<String>,
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    let mut command = cargo();
    command.args(["test", "--no-fail-fast"]);
    if args.package.is_empty() {
        command.arg("--workspace");
        if cfg!(not(target_os = "linux")) {
            // They measure beside what only Linux has.
            command.args(["--exclude", "agentfs-bench"]);
        }
    }
    for package in &args.package {
        command.args(["--package", package]);
    }
    command.args(&args.filter);
    let has_mounts = args.package.is_empty() || args.package.iter().any(|it| it == "agentfs-mount");
    if cfg!(target_os = "linux") && has_mounts {
        report.step("install programs for the mount", || {
            let (fsx, npm) = mount_programs()?;
            command.env("AGENTFS_FSX", fsx).env("AGENTFS_NPM", npm);
            Ok(Outcome::Done)
        });
    }
    report.test_step("tests", &mut command);
    if args.package.is_empty() && args.filter.is_none() {
        loom::models(report, None);
    }
}

/// What the tests of the mount run in one, of what a machine may not have.
fn mount_programs() -> Result<(PathBuf, PathBuf), Failure> {
    let fsx = from_cargo(FSX.0, FSX.1)?;
    let npm = from_pip("npm", NODE)?;
    Ok((fsx, npm))
}
