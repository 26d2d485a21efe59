//! `cargo xtask package`: builds the Debian package, and checks that it installs and works.

mod check;
mod sbom;

use std::fs::{self, File};
use std::path::Path;

use crate::report::{Failure, Outcome, Report, StepResult, capture, run as run_command};
use crate::tools::{cargo, find, from_apt, from_cargo, target_dir};

const CARGO_DEB: &str = "3.8.0";

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask package            build the package, and check it\n  \
    cargo xtask package --dev      the same with the program as tests build it: to check the package\n\n\
    The package is in target/package/. It is installed for the check into a root of its own there; \
    nothing of this machine is changed.")]
pub(crate) struct Args {
    /// Package the program as tests build it, to check the package without a release build
    #[arg(long)]
    pub(crate) dev: bool,
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    if find("dpkg-deb").is_none() {
        report.step("package", || {
            Ok(Outcome::Skipped(
                "Debian packages are made on Debian".to_owned(),
            ))
        });
        return;
    }
    let stage = target_dir("package");
    let deb = stage.join("agentfs.deb");
    if report.step("package: build", || build(&stage, &deb, args.dev)) {
        report.step("package: install and use", || {
            check::installed(&stage, &deb)
        });
    }
}

/// Puts all that is generated where `package.metadata.deb` looks for it, and has cargo-deb pack it.
fn build(stage: &Path, deb: &Path, dev: bool) -> StepResult {
    let directory = if dev {
        // A package built by itself would have other features, and all would be built once more.
        run_command(cargo().args(["test", "--workspace", "--no-run", "--quiet"]))?;
        "debug"
    } else {
        run_command(cargo().args(["build", "--release", "--package", "agentfs"]))?;
        "release"
    };
    if find("dpkg-shlibdeps").is_none() {
        from_apt(&["dpkg-dev"])?;
    }
    let failure = |error: std::io::Error| Failure::new(format!("{}: {error}", stage.display()));
    // cargo-deb looks into the folder as into cargo's target directory.
    let release = stage.join("release");
    let generated = release.join("package");
    if release.exists() {
        fs::remove_dir_all(&release).map_err(failure)?;
    }
    fs::create_dir_all(&generated).map_err(failure)?;
    let program = release.join("agentfs");
    fs::copy(target_dir(directory).join("agentfs"), &program).map_err(failure)?;

    let agentfs = || std::process::Command::new(&program);
    run_command(agentfs().arg("man").arg(generated.join("man")))?;
    for shell in ["bash", "fish", "zsh"] {
        let script = capture(agentfs().args(["completions", shell]))?;
        fs::write(generated.join(format!("agentfs.{shell}")), script).map_err(failure)?;
    }
    sbom::write(&generated)?;

    File::create(deb).map_err(failure)?;
    run_command(
        std::process::Command::new(from_cargo("cargo-deb", CARGO_DEB)?)
            .args(["deb", "--package", "agentfs", "--no-build"])
            .arg("--output")
            .arg(deb)
            .env("CARGO_TARGET_DIR", stage),
    )?;
    let size = fs::metadata(deb).map_err(failure)?.len();
    Ok(Outcome::Note(format!("{} KiB", size / 1024)))
}
