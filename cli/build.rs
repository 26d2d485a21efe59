//! Builds the preloaded library with a cargo of its own, so that the `agentfs` program carries it.
//!
//! The release profile serves whatever the program is built with: the library runs in other people's
//! processes. It is built into one directory for all profiles, beside theirs, so that it is built
//! once. Crates are those of the lock file, which are there already when the program is built, so
//! nothing is downloaded.
//!
//! For another system than this one nothing is built, because linking would need that system's
//! tools. `AGENTFS_SHIM_LIBRARY=PATH` then names a library that was built elsewhere.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names a library to be carried instead of the one that would be built.
const LIBRARY: &str = "AGENTFS_SHIM_LIBRARY";
/// What the library is built from, beside the lock file.
const CRATES: [&str; 4] = ["interpose", "client", "proto", "ring"];
/// What cargo and clippy set for the outer build and would be misunderstood by the inner one.
const OUTER: [&str; 7] = [
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "CLIPPY_ARGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

fn main() -> Result<(), Box<dyn Error>> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("the crate is not in a folder of the tree")?;
    println!("cargo::rustc-check-cfg=cfg(agentfs_shim)");
    println!("cargo::rerun-if-env-changed={LIBRARY}");
    let library = match env::var_os(LIBRARY).filter(|path| !path.is_empty()) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            PathBuf::from(path)
        }
        None if env::var_os("HOST") == env::var_os("TARGET") => build(tree)?,
        None => return Ok(()),
    };
    carry(&library)
}

/// Copies the library to where the program includes it from, and tells its hash.
fn carry(library: &Path) -> Result<(), Box<dyn Error>> {
    let bytes = fs::read(library).map_err(|error| format!("{}: {error}", library.display()))?;
    let copy = PathBuf::from(variable("OUT_DIR")?).join("shim");
    // Unchanged, so that the program is not built anew.
    if fs::read(&copy).ok().as_ref() != Some(&bytes) {
        fs::write(&copy, &bytes)?;
    }
    let mut hash = std::hash::DefaultHasher::new();
    hash.write(&bytes);
    println!("cargo::rustc-cfg=agentfs_shim");
    println!("cargo::rustc-env=AGENTFS_SHIM_HASH={:016x}", hash.finish());
    Ok(())
}

fn build(tree: &Path) -> Result<PathBuf, Box<dyn Error>> {
    for part in CRATES {
        for file in ["src", "Cargo.toml"] {
            println!(
                "cargo::rerun-if-changed={}",
                tree.join(part).join(file).display()
            );
        }
    }
    for file in ["Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", tree.join(file).display());
    }
    let target = variable("TARGET")?;
    let directory = directory(Path::new(&variable("OUT_DIR")?));
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(tree)
        .args(["rustc", "--quiet", "--release", "--locked", "--lib"])
        .args([
            "--package",
            "agentfs-interpose-shim",
            "--crate-type",
            "cdylib",
        ])
        .arg("--target")
        .arg(&target)
        .arg("--target-dir")
        .arg(&directory)
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    for name in OUTER {
        cargo.env_remove(name);
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("the preloaded library cannot be built: {cargo:?}: {status}").into());
    }
    let name = if variable("CARGO_CFG_TARGET_VENDOR")? == "apple" {
        "libagentfs_interpose_shim.dylib"
    } else {
        "libagentfs_interpose_shim.so"
    };
    Ok(directory.join(target).join("release").join(name))
}

/// One for all profiles, in the target directory that holds `PROFILE/build/PACKAGE-HASH/out`.
fn directory(out: &Path) -> PathBuf {
    let build = out.ancestors().find(|it| it.ends_with("build"));
    let profile = build.and_then(Path::parent);
    match profile.and_then(Path::parent) {
        Some(target) => target.join("agentfs-shim"),
        None => out.to_owned(),
    }
}

fn variable(name: &str) -> Result<OsString, Box<dyn Error>> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}").into())
}
