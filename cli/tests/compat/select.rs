//! Selects the programs that run, and judges the outcome.
#![expect(clippy::print_stdout, reason = "a test program's report")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::programs::{PROGRAMS, Program};
use crate::{notify_watch, table, trial};

/// The folder with the scripts and everything that they need. Without it, only the programs that
/// need nothing else run.
const FOLDER: &str = "AGENTFS_COMPAT";
/// The option by which the table is written, not compared.
const WRITE: &str = "--write";
/// Set to leave out, loudly, what needs /dev/fuse.
const SKIP: &str = "AGENTFS_SKIP_FUSE_TESTS";

pub(crate) fn main() -> ExitCode {
    if env::args().any(|it| it == notify_watch::ARGUMENT) {
        return match notify_watch::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let writes = env::args().any(|it| it == WRITE);
    let arguments = Arguments::from_iter(env::args().filter(|it| it != WRITE));
    let is_impossible = env::var_os(SKIP).is_some() && agentfs_mount::check_device().is_err();
    if is_impossible && !arguments.list {
        println!("mounts cannot be tested here, and {SKIP} is set");
    }
    let mut trials: Vec<Trial> = chosen()
        .map(|program| {
            let run = move || heard(program, writes);
            Trial::test(program.name, run).with_ignored_flag(is_impossible)
        })
        .collect();
    if !writes {
        let name = "docs/compatibility.md has these programs and no others";
        trials.push(Trial::test(name, page_is_whole));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The page says of every program what it heard.
    if writes && conclusion.num_passed == PROGRAMS.len() as u64 {
        match std::fs::write(page_path(), table::page(PROGRAMS.iter())) {
            Ok(()) => println!("written: docs/compatibility.md"),
            Err(error) => println!("docs/compatibility.md: {error}"),
        }
    }
    conclusion.exit_code()
}

/// Returns the programs that can be there: all where `cargo xtask compat` has installed them.
fn chosen() -> impl Iterator<Item = &'static Program> {
    let is_installed = env::var_os(FOLDER).is_some();
    PROGRAMS
        .iter()
        .filter(move |program| is_installed || !program.installed)
}

fn folder() -> PathBuf {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/programs");
    env::var_os(FOLDER).map_or(scripts, PathBuf::from)
}

fn page_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compatibility.md")
}

/// Tests a program; what it hears must be what the page says of it.
fn heard(program: &'static Program, writes: bool) -> Result<(), Failed> {
    trial::run(program, &folder()).map_err(Failed::from)?;
    let line = table::line(program);
    if writes || page().contains(&line) {
        return Ok(());
    }
    Err(stale(&line))
}

fn page_is_whole() -> Result<(), Failed> {
    if page() == table::page(PROGRAMS.iter()) {
        return Ok(());
    }
    Err(stale("just these programs"))
}

fn page() -> String {
    std::fs::read_to_string(page_path()).unwrap_or_default()
}

fn stale(what: &str) -> Failed {
    let text = "`cargo xtask compat --fix` writes docs/compatibility.md, which does not say";
    format!("{text} {what}").into()
}
