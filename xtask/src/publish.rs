//! `cargo xtask publish`: makes the packages of the library crates as `cargo publish` would, builds
//! each from its own package, and sends nothing.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::report::{Failure, Outcome, Report, StepResult, capture, run as run_command};
use crate::tools::{cargo, target_dir};

/// The crates that are published. Every other one says `publish.workspace = true`, which is false.
const CRATES: [&str; 5] = [
    "agentfs-ring",
    "agentfs-core",
    "agentfs-proto",
    "agentfs-client",
    "agentfs-engine",
];

/// The files that every package carries beside its code.
const FILES: [&str; 4] = ["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// The fields that docs.rs, crates.io and their readers rely on.
const FIELDS: [&str; 7] = [
    "description",
    "readme",
    "license",
    "repository",
    "rust_version",
    "keywords",
    "categories",
];

#[derive(clap::Args, Default)]
#[command(after_help = "Examples:\n  \
    cargo xtask publish\n  \
    cargo xtask publish --no-verify    check what is in the packages, and build none of them")]
pub(crate) struct Args {
    /// Do not build the packages
    #[arg(long)]
    no_verify: bool,
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    report.step(
        "publish: what the crates say of themselves",
        check_manifests,
    );
    report.step("publish: what is in the packages", check_contents);
    report.step("publish: the packages", || package(args));
}

/// Compares the manifests with the list of published crates, and looks for fields that are missing.
fn check_manifests() -> StepResult {
    let packages = packages()?;
    let mut found: Vec<String> = Vec::new();
    for name in CRATES {
        match packages.iter().find(|package| package["name"] == name) {
            Some(package) => found.extend(missing_fields(name, package)),
            None => found.push(format!("{name} is not in the workspace")),
        }
    }
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let is_published = package["publish"] != Value::Array(Vec::new());
        if is_published != CRATES.contains(&name) {
            found.push(format!(
                "{name} is {}published by its manifest, and {}in the list of \
                 xtask/src/publish.rs: make them agree",
                if is_published { "" } else { "not " },
                if is_published { "not " } else { "" },
            ));
        }
    }
    verdict(&found, format!("{} crates", CRATES.len()))
}

/// Returns what cargo reports of the workspace's packages.
fn packages() -> Result<Vec<Value>, Failure> {
    let text = capture(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let mut metadata: Value =
        serde_json::from_str(&text).map_err(|error| Failure::new(error.to_string()))?;
    let packages = metadata["packages"].as_array_mut().map(std::mem::take);
    packages.ok_or_else(|| Failure::new("cargo metadata lists no packages"))
}

fn missing_fields(name: &str, package: &Value) -> Vec<String> {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    };
    let mut missing: Vec<String> = FIELDS
        .iter()
        .filter(|field| is_empty(&package[**field]))
        .map(|field| format!("{name}: its Cargo.toml has no {field}"))
        .collect();
    if is_empty(&package["metadata"]["docs"]["rs"]) {
        missing.push(format!(
            "{name}: its Cargo.toml has no [package.metadata.docs.rs]"
        ));
    }
    missing
}

/// Lists what each package would hold, and reports what is missing from it.
fn check_contents() -> StepResult {
    let mut found = Vec::new();
    let mut count = 0;
    let packages = packages()?;
    for name in CRATES {
        let manifest = packages
            .iter()
            .find(|package| package["name"] == name)
            .and_then(|package| package["manifest_path"].as_str())
            .ok_or_else(|| Failure::new(format!("{name} is not in the workspace")))?;
        let folder = Path::new(manifest).parent().unwrap_or(Path::new("."));
        let list = ["package", "--quiet", "--list", "--allow-dirty", "-p", name];
        let listing = capture(cargo().args(list))?;
        let files: Vec<&str> = listing.lines().collect();
        count += files.len();
        for needed in FILES {
            if !files.contains(&needed) {
                found.push(format!("{name}: the package has no {needed}"));
            }
        }
        for file in files.iter().filter(|file| file.ends_with(".rs")) {
            let path = folder.join(file);
            let text = std::fs::read_to_string(&path)
                .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
            for outside in files_outside(Path::new(file), &text) {
                found.push(format!(
                    "{name}: {file} needs {outside}, which the package does not have"
                ));
            }
        }
    }
    verdict(&found, format!("{count} files"))
}

/// Returns the paths that a source file names by `#[path]` or `include_str!` and that lead out of
/// its package. The build of a package does not see those of tests and examples.
fn files_outside(file: &Path, text: &str) -> Vec<String> {
    let depth = file.components().count().saturating_sub(1);
    let named = text.lines().filter_map(|line| {
        let line = line.trim_start();
        let is_path = line.starts_with("#[path");
        let is_include = !line.starts_with("//")
            && ["include_str!", "include_bytes!", "include!"]
                .iter()
                .any(|it| line.contains(it));
        (is_path || is_include).then(|| line.split('"').nth(1))?
    });
    named
        .filter(|path| leads_out(depth, Path::new(path)))
        .map(str::to_owned)
        .collect()
}

fn leads_out(mut depth: usize, path: &Path) -> bool {
    for part in path.components() {
        match part {
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

/// Makes all packages with one call, because each needs those before it, which no registry has yet.
/// The packages go to `target/publish/package`.
fn package(args: &Args) -> StepResult {
    forget_packages()?;
    // Cargo asks the registry about each package again, and a registry that does not answer for a
    // minute would fail the step. All that the builds need is in the lock file.
    run_command(cargo().args(["fetch", "--quiet", "--locked"]))?;
    let mut command = cargo();
    command.args(["package", "--quiet", "--offline", "--allow-dirty"]);
    for name in CRATES {
        command.args(["-p", name]);
    }
    // Each package is built in a directory of its own, and would build all that it depends on, once
    // more. Whether it builds does not depend on debug information.
    command
        .env("CARGO_TARGET_DIR", target_dir("publish"))
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    if args.no_verify {
        command.arg("--no-verify");
    }
    run_command(&mut command)?;
    let how = if args.no_verify {
        "made"
    } else {
        "made and built"
    };
    Ok(Outcome::Note(format!("{} packages {how}", CRATES.len())))
}

/// Removes what cargo has unpacked of the packages of an earlier run. It takes them from a registry of
/// its own in the target directory, knows them by name and version, and does not look whether they have
/// changed.
fn forget_packages() -> Result<(), Failure> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let Some(home) = home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))) else {
        return Ok(());
    };
    for unpacked in entries(&home.join("registry/src")) {
        // Registries on the network have the name of their host first.
        let is_local = unpacked
            .file_name()
            .is_some_and(|it| it.as_encoded_bytes().starts_with(b"-"));
        for package in entries(&unpacked).iter().filter(|_| is_local) {
            let name = package.file_name().unwrap_or_default().to_string_lossy();
            let is_of = |it: &str| {
                name.strip_prefix(it)
                    .is_some_and(|rest| rest.starts_with('-'))
            };
            if CRATES.into_iter().any(is_of) {
                std::fs::remove_dir_all(package)
                    .map_err(|error| Failure::new(format!("{}: {error}", package.display())))?;
            }
        }
    }
    Ok(())
}

/// Returns what is in a directory, which need not be there.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|it| it.path()).collect()
}

fn verdict(found: &[String], note: String) -> StepResult {
    if found.is_empty() {
        return Ok(Outcome::Note(note));
    }
    Err(Failure::new(found.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_lead_out_of_a_package_are_found() {
        let text = "#[path = \"../../src/bus.rs\"]\nmod bus;\n\
            #[path = \"../../../mount/tests/rng.rs\"]\nmod rng;\n\
            const A: &str = include_str!(\"../../README.md\");\n\
            const B: &str = include_str!(\"../../../docs/ring-abi.md\");\n\
            // include_str!(\"../../../../not.this\")\n";
        assert_eq!(
            files_outside(Path::new("tests/bus/main.rs"), text),
            ["../../../mount/tests/rng.rs", "../../../docs/ring-abi.md"]
        );
    }
}
