//! `cargo xtask test`.

use crate::loom;
use crate::report::Report;
use crate::tools::cargo;

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
            command.args(["--exclude", "agentfs-benches", "--exclude", "agentfs-bench"]);
        }
    }
    for package in &args.package {
        command.args(["--package", package]);
    }
    command.args(&args.filter);
    report.test_step("tests", &mut command);
    if args.package.is_empty() && args.filter.is_none() {
        loom::models(report, None);
    }
}
