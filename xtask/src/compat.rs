//! `cargo xtask compat`: runs other people's watcher programs in a mounted branch.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::report::{Failure, Outcome, Report, StepResult, run as run_command};
use crate::tools::{IS_LINUX, NODE, cargo, find, from_apt, make_python_env, root, target_dir};

/// The folder with the scripts, and with the versions of what they need.
const SCRIPTS: &str = "cli/tests/compat/programs";
/// The Debian packages that are needed, each after a program that it brings.
const DEBIAN: [(&str, &str); 4] = [
    ("inotifywait", "inotify-tools"),
    ("entr", "entr"),
    ("listen", "ruby-listen"),
    ("javac", "default-jdk-headless"),
];

#[derive(clap::Args, Default)]
#[command(
    after_help = "Needs, and installs as root on Debian: inotify-tools entr ruby-listen default-jdk-headless \
    python3-venv.\nPython and Node packages (and Node, where npm is not on PATH) are put below target/.\n\n\
    Examples:\n  \
    cargo xtask compat\n  \
    cargo xtask compat chokidar    only those with this in their names\n  \
    cargo xtask compat --fix       run all and write docs/compatibility.md"
)]
pub(crate) struct Args {
    /// Write docs/compatibility.md instead of comparing with it
    #[arg(long, conflicts_with = "filter")]
    fix: bool,
    /// Only programs with this in their names
    filter: Option<String>,
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    if !IS_LINUX {
        report.step("watcher programs", || {
            Ok(Outcome::Skipped(
                "branches are mounted on Linux only".to_owned(),
            ))
        });
        return;
    }
    let folder = target_dir("compat");
    if !report.step("install watcher programs", || install(&folder)) {
        return;
    }
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--test", "compat", "--"])
        .args(args.fix.then_some("--write"))
        .args(&args.filter)
        .env("AGENTFS_COMPAT", &folder);
    report.test_step("watcher programs", &mut command);
}

fn install(folder: &Path) -> StepResult {
    let missing: Vec<&str> = DEBIAN
        .into_iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| package)
        .collect();
    if !missing.is_empty() {
        from_apt(&missing)?;
    }
    copy(&root().join(SCRIPTS), folder)
        .map_err(|error| Failure::new(format!("{}: {error}", folder.display())))?;
    make_python_env(&folder.join("venv"))?;
    let bin = folder.join("venv/bin");
    let mut pip = Command::new(bin.join("pip"));
    pip.args(["install", "--quiet", "-r"])
        .arg(folder.join("requirements.txt"));
    let has_npm = find("npm").is_some();
    if !has_npm {
        pip.arg(NODE);
    }
    run_command(&mut pip)?;
    let npm = if has_npm {
        "npm".into()
    } else {
        bin.join("npm")
    };
    let mut path = vec![bin];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let path = std::env::join_paths(path).map_err(|error| Failure::new(error.to_string()))?;
    run_command(
        Command::new(npm)
            .args([
                "install",
                "--no-package-lock",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
            ])
            .current_dir(folder)
            .env("PATH", path),
    )?;
    Ok(Outcome::Done)
}

/// Copies the files of a folder.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
