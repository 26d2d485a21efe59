//! Which programs run, and how it ends.
#![expect(clippy::print_stdout, reason = "a test program's report")]

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::programs::{PROGRAMS, Program};
use crate::trial::Failed;
use crate::{notify_watch, table, trial};

/// The folder with the scripts and everything that they need. Without it, only the programs that
/// need nothing else run.
const FOLDER: &str = "AGENTFS_COMPAT";
/// Writes the table instead of comparing with it.
const WRITE: &str = "--write";
/// Set to leave out, loudly, what needs /dev/fuse.
const SKIP: &str = "AGENTFS_SKIP_FUSE_TESTS";

type Results = BTreeMap<usize, Result<(), String>>;

pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|it| it == notify_watch::ARGUMENT) {
        return match notify_watch::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if arguments.iter().any(|it| it == "--list") {
        return ExitCode::SUCCESS;
    }
    if env::var_os(SKIP).is_some() && agentfs_mount::check_device().is_err() {
        println!("mounts cannot be tested here, and {SKIP} is set");
        return ExitCode::SUCCESS;
    }
    let started = Instant::now();
    let installed = env::var_os(FOLDER).map(PathBuf::from);
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/programs");
    let folder = installed.as_deref().unwrap_or(&scripts);
    let filters: Vec<&String> = arguments.iter().filter(|it| !it.starts_with('-')).collect();
    let chosen: Vec<usize> = (0..PROGRAMS.len())
        .filter(|index| {
            let program = &PROGRAMS[*index];
            (installed.is_some() || !program.installed)
                && (filters.is_empty() || filters.iter().any(|it| program.name.contains(*it)))
        })
        .collect();
    println!("\nrunning {} tests", chosen.len());
    let mut results = run(&chosen, folder);
    let page = page_path();
    if arguments.iter().any(|it| it == WRITE) && chosen.len() == PROGRAMS.len() {
        write(&page, &results);
    } else {
        compare(&page, &mut results, chosen.len() == PROGRAMS.len());
    }
    report(&results, started)
}

fn page_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compatibility.md")
}

/// Two at a time: most of it is waiting.
fn run(chosen: &[usize], folder: &Path) -> Results {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Results::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(index) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let result = one(&PROGRAMS[*index], folder);
                    let word = if result.is_ok() { "ok" } else { "FAILED" };
                    let seconds = started.elapsed().as_secs_f64();
                    println!("test {} ... {word} ({seconds:.1} s)", PROGRAMS[*index].name);
                    if let Ok(mut results) = results.lock() {
                        results.insert(*index, result.map_err(|why| why.to_string()));
                    }
                }
            });
        }
    });
    results.into_inner().unwrap_or_default()
}

fn one(program: &Program, folder: &Path) -> Result<(), Failed> {
    std::panic::catch_unwind(|| trial::run(program, folder))
        .unwrap_or_else(|_| Err("panicked".into()))
}

fn heard(results: &Results) -> impl Iterator<Item = &Program> {
    let heard = results.iter().filter(|(_, result)| result.is_ok());
    heard.map(|(index, _)| &PROGRAMS[*index])
}

fn write(page: &Path, results: &Results) {
    if results.values().all(Result::is_ok) {
        match std::fs::write(page, table::page(heard(results))) {
            Ok(()) => println!("written: docs/compatibility.md"),
            Err(error) => println!("docs/compatibility.md: {error}"),
        }
    }
}

/// What was measured must be what the page says: whole, or the lines of the programs that ran.
fn compare(page: &Path, results: &mut Results, whole: bool) {
    let page = std::fs::read_to_string(page).unwrap_or_default();
    let stale = "`cargo xtask compat --fix` writes docs/compatibility.md, which does not say";
    for (index, result) in &mut *results {
        if result.is_ok() {
            let line = table::line(&PROGRAMS[*index]);
            if !page.contains(&line) {
                *result = Err(format!("{stale} {line}"));
            }
        }
    }
    if whole && results.values().all(Result::is_ok) && page != table::page(heard(results)) {
        results.insert(PROGRAMS.len(), Err(format!("{stale} just this")));
    }
}

/// As cargo's own test programs do it.
fn report(results: &Results, started: Instant) -> ExitCode {
    let mut failed = 0;
    for (index, result) in results {
        if let Err(why) = result {
            failed += 1;
            let name = PROGRAMS.get(*index).map_or("the page", |it| it.name);
            println!("\n---- {name} ----\n{why}");
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        results.len() - failed,
        started.elapsed().as_secs_f64()
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
