//! `cargo xtask miri`: runs unit tests under Miri, which finds undefined behaviour.

use crate::nightly;
use crate::report::{Outcome, Report};
use crate::tools::target_dir;

/// The packages, and which of their tests run. Of the ring these are only the tests that map no
/// memory from a descriptor, because Miri knows no memfd; of the protocol, the tests of what lies
/// in shared memory.
const TESTS: [(&str, &[&str], &[&str]); 2] = [
    ("agentfs-ring", &["--lib"], &["position::", "layout::"]),
    (
        "agentfs-proto",
        &["--test", "it"],
        &["record::", "registration::"],
    ),
];

/// The number of generated cases a test: Miri is some hundred times slower than the machine.
const CASES: &str = "20";

pub(crate) fn run(report: &mut Report) {
    if !nightly::has(&["cargo", "miri", "--version"]) {
        report.step("miri", || {
            let line = "rustup component add miri rust-src --toolchain nightly";
            Ok(Outcome::Skipped(format!("not installed: run `{line}`")))
        });
        return;
    }
    for (package, which, filters) in TESTS {
        match nightly::cargo("miri") {
            Ok(mut command) => {
                command
                    .args(["test", "--package", package])
                    .args(which)
                    .arg("--target-dir")
                    .arg(target_dir("miri"))
                    .arg("--")
                    .args(filters)
                    .env("PROPTEST_CASES", CASES)
                    // proptest looks for a file with the failures of earlier runs.
                    .env("MIRIFLAGS", "-Zmiri-disable-isolation");
                report.test_step(&format!("miri: {package}"), &mut command);
            }
            Err(why) => {
                report.step(&format!("miri: {package}"), || Err(why));
            }
        }
    }
}
