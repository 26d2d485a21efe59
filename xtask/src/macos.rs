//! `cargo xtask macos`: checks what can be checked of macOS and FreeBSD without either.
//!
//! A compiler that has the target's standard library, or for which rustup can install it, is used as
//! it is. Otherwise Debian's rustc builds one from the library source that comes with it, if that
//! rustc is new enough for the workspace. The shim is linked by zig, which brings
//! the stubs of libSystem, and the proof is in the linked file: a hook that dyld will not find in
//! `__interpose` is no hook.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::report::{Failure, Outcome, Report, StepResult, capture, run as run_command};
use crate::tools::{IS_MACOS, cargo, find, from_apt, from_pip, python_env, target_dir};

const MACOS: &str = "aarch64-apple-darwin";
const FREEBSD: &str = "x86_64-unknown-freebsd";
const SHIM: &str = "agentfs-interpose-shim";
const SECTION: &str = "__interpose";
const DYLIB: &str = "libagentfs_interpose_shim.dylib";

/// Debian's compiler and the source of its library.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "rust-web-src"];

#[derive(clap::Args, Default)]
#[command(
    after_help = "Needs, and installs as root on Debian: llvm python3-venv, and the targets\n\
    aarch64-apple-darwin and x86_64-unknown-freebsd of rustup (or rustc-web and rust-web-src).\n\
    zig and cargo-zigbuild are put into a virtual environment below target/.\n\n\
    Examples:\n  \
    cargo xtask macos\n  \
    cargo xtask macos --check     type-check only"
)]
pub(crate) struct Args {
    /// Type-check only, do not link
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    if IS_MACOS {
        report.step("macos", || {
            Err(Failure::new(
                "this command does without a Mac; on one, run `MACOS_E2E=1 cargo xtask test`",
            ))
        });
        return;
    }
    report.step("type-check for macOS", || {
        // These are never run there: this program, and the benchmarks, which measure Linux.
        let without = ["xtask", "agentfs-bench"];
        let without = without.map(|name| ["--exclude", name]).concat();
        let tests = ["--workspace", "--test", "macos"];
        type_check(MACOS, &[&tests[..], &without].concat())
    });
    report.step("type-check for FreeBSD", || {
        type_check(
            FREEBSD,
            &[
                "-p",
                "agentfs-ring",
                "-p",
                "agentfs-proto",
                "-p",
                "agentfs-client",
                "-p",
                SHIM,
            ],
        )
    });
    if !args.check {
        report.step("link the shim for macOS", link_and_prove);
    }
}

fn type_check(target: &str, packages: &[&str]) -> StepResult {
    let compiler = Compiler::for_target(target)?;
    run_command(compiler.apply(
        cargo().args(["check", "--lib", "--bins"]).args(packages),
        target,
    ))?;
    Ok(Outcome::Note(compiler.describe().to_owned()))
}

/// The compiler for a foreign target.
#[derive(Clone, Copy)]
enum Compiler {
    /// The usual compiler: the target's library is installed.
    Rustup,
    /// Debian's compiler, which builds the library from source.
    Debian,
}

impl Compiler {
    fn for_target(target: &str) -> Result<Self, Failure> {
        if has_library(target) || (add_library(target) && has_library(target)) {
            return Ok(Self::Rustup);
        }
        let source_there = || {
            Path::new(DEBIAN_RUSTC).is_file()
                && fs::read_dir("/usr/src").is_ok_and(|mut entries| {
                    entries.any(|entry| {
                        entry.is_ok_and(|entry| {
                            entry.path().join("library/std/Cargo.toml").is_file()
                        })
                    })
                })
        };
        if !source_there() {
            from_apt(DEBIAN_PACKAGES)
                .map_err(|why| Failure::new(format!("{why}, or `rustup target add {target}`")))?;
        }
        Ok(Self::Debian)
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Rustup => "with the installed library",
            Self::Debian => "with Debian's compiler and a library built from source",
        }
    }

    /// Lets a cargo command build for the target, in a target directory of its own.
    fn apply<'a>(self, command: &'a mut Command, target: &str) -> &'a mut Command {
        command
            .args(["--target", target])
            .arg("--target-dir")
            .arg(target_dir("foreign"))
            // Flags for this machine's processor have no meaning for another target.
            .env_remove("RUSTFLAGS");
        match self {
            Self::Rustup => command,
            Self::Debian => command
                .arg("-Zbuild-std=std,panic_abort")
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1"),
        }
    }
}

/// Returns whether the usual compiler has the target's standard library.
fn has_library(target: &str) -> bool {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .output();
    output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// Has rustup install the target's standard library, where there is a rustup that can.
fn add_library(target: &str) -> bool {
    let mut command = Command::new("rustup");
    let output = command.args(["target", "add", target]).output();
    output.is_ok_and(|output| output.status.success())
}

fn link_and_prove() -> StepResult {
    if !declares_hooks(Path::new("interpose/src"))? {
        return Ok(Outcome::Skipped(format!(
            "{SHIM} declares no {SECTION} tuples yet, so there is nothing to prove"
        )));
    }
    let objdump = objdump()?;
    let dylib = link()?;
    let hooked = prove(&objdump, &dylib)?;
    let names: Vec<&str> = hooked.iter().map(String::as_str).collect();
    Ok(Outcome::Note(format!("hooks {}", names.join(" "))))
}

/// Returns whether any source of the shim puts something into the section.
fn declares_hooks(dir: &Path) -> Result<bool, Failure> {
    let failure = |error: std::io::Error| Failure::new(format!("{}: {error}", dir.display()));
    for entry in fs::read_dir(dir).map_err(failure)? {
        let path = entry.map_err(failure)?.path();
        let declared = if path.is_dir() {
            declares_hooks(&path)?
        } else {
            fs::read_to_string(&path).is_ok_and(|text| text.contains("__DATA,__interpose"))
        };
        if declared {
            return Ok(true);
        }
    }
    Ok(false)
}

fn link() -> Result<PathBuf, Failure> {
    let zigbuild = from_pip("cargo-zigbuild", "cargo-zigbuild==0.24.0")?;
    from_pip("python-zig", "ziglang==0.17.0")?;
    // cargo-zigbuild looks for zig as a module of the python3 on PATH.
    let mut path = OsString::from(python_env()?.join("bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let sdk = target_dir("foreign").join("empty-sdk");
    fs::create_dir_all(&sdk)
        .map_err(|error| Failure::new(format!("{}: {error}", sdk.display())))?;

    let compiler = Compiler::for_target(MACOS)?;
    let mut command = Command::new(zigbuild);
    command.args(["zigbuild", "--release", "--package", SHIM]);
    run_command(
        compiler
            .apply(&mut command, MACOS)
            .env("PATH", path)
            .env("SDKROOT", sdk)
            .env("CARGO_PROFILE_RELEASE_STRIP", "false")
            .env("CARGO_PROFILE_RELEASE_SPLIT_DEBUGINFO", "off"),
    )?;
    Ok(target_dir("foreign")
        .join(MACOS)
        .join("release")
        .join(DYLIB))
}

/// Finds LLVM's objdump, which reads Mach-O; GNU's does not.
fn objdump() -> Result<PathBuf, Failure> {
    let versioned = || {
        let names = fs::read_dir("/usr/bin").ok()?;
        names
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find(|name| name.starts_with("llvm-objdump-"))
            .map(PathBuf::from)
    };
    if let Some(found) = find("llvm-objdump").or_else(versioned) {
        return Ok(found);
    }
    from_apt(&["llvm"])?;
    find("llvm-objdump").ok_or_else(|| Failure::new("llvm-objdump is not on PATH"))
}

/// Checks that dyld will find every hook: `__interpose` has one pair of pointers for each function
/// that it binds. Returns the functions.
fn prove(objdump: &Path, dylib: &Path) -> Result<BTreeSet<String>, Failure> {
    let headers = capture(
        Command::new(objdump)
            .args(["--macho", "--section-headers"])
            .arg(dylib),
    )?;
    let size = section_size(&headers, SECTION)
        .filter(|size| *size > 0)
        .ok_or_else(|| Failure::new(format!("{}: no {SECTION} section", dylib.display())))?;
    let binds = capture(Command::new(objdump).args(["--macho", "--bind"]).arg(dylib))?;
    let hooked = bound_in(&binds, SECTION);
    let tuples = size / 16;
    if hooked.len() as u64 != tuples {
        return Err(Failure::new(format!(
            "{}: {SECTION} has room for {tuples} tuples but binds {} functions: {hooked:?}",
            dylib.display(),
            hooked.len()
        )));
    }
    let missing: Vec<&&str> = MUST_HOOK
        .iter()
        .filter(|name| !hooked.contains(**name))
        .collect();
    if missing.is_empty() {
        Ok(hooked)
    } else {
        Err(Failure::new(format!(
            "{}: no tuple for {missing:?}, only for {hooked:?}",
            dylib.display()
        )))
    }
}

/// The functions that a program that watches files on macOS cannot do without.
const MUST_HOOK: &[&str] = &["_kqueue", "_kevent", "_kevent64", "_close"];

/// Reads a section's size from `llvm-objdump --section-headers`: index, name, size in hexadecimal.
fn section_size(headers: &str, name: &str) -> Option<u64> {
    let line = headers
        .lines()
        .find(|line| line.split_whitespace().nth(1) == Some(name))?;
    u64::from_str_radix(line.split_whitespace().nth(2)?, 16).ok()
}

/// Returns the symbols that `llvm-objdump --bind` lists for a section: the last word of each line.
fn bound_in(binds: &str, section: &str) -> BTreeSet<String> {
    binds
        .lines()
        .filter(|line| line.split_whitespace().nth(1) == Some(section))
        .filter_map(|line| line.split_whitespace().last().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objdump_is_understood() {
        let headers = "Sections:\nIdx Name          Size     VMA              Type\n  \
            0 __text        00001000 0000000000000a30 TEXT\n  \
            7 __interpose   00000040 0000000000008000 DATA\n";
        assert_eq!(section_size(headers, "__interpose"), Some(64));
        assert_eq!(section_size(headers, "__cstring"), None);
        let binds = "Bind table:\nsegment  section            address    type       addend dylib            symbol\n\
            __DATA   __interpose        0x00008008 pointer         0 libSystem        _kqueue\n\
            __DATA   __got              0x00008010 pointer         0 libSystem        _read\n";
        assert_eq!(
            bound_in(binds, "__interpose"),
            BTreeSet::from(["_kqueue".to_owned()])
        );
    }
}
