//! `cargo xtask loom`: runs the ring's models, and proves that they would notice a weaker ordering.
//!
//! loom replaces the ring's atomics, so everything is built with `--cfg loom`, in a target directory
//! of its own. A mutant is chosen by the environment variable `RING_MUTANT` when a model runs: one
//! build serves them all.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::report::{Failure, Outcome, Report, StepResult, capture};
use crate::tools::{cargo, target_dir};

const PACKAGE: &str = "agentfs-loom-tests";

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask loom\n  \
    cargo xtask loom wrap                       only models with \"wrap\" in their name\n  \
    cargo xtask loom --mutants                  weaken each ordering, drop each fence\n  \
    LOOM_MAX_PREEMPTIONS=2 cargo xtask loom     quicker, and proves less\n  \
    LOOM_LOG=trace LOOM_LOCATION=1 cargo xtask loom wrap")]
pub(crate) struct Args {
    /// Weaken every ordering and drop every fence in turn; fail unless a model catches each
    #[arg(long, conflicts_with = "filter")]
    mutants: bool,
    /// Only models with this in their name
    filter: Option<String>,
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    if args.mutants {
        mutants(report);
    } else {
        models(report, args.filter.as_deref());
    }
}

/// Runs the models of the ring as it is.
pub(crate) fn models(report: &mut Report, filter: Option<&str>) {
    report.test_step("models", test_command().args(filter));
}

/// Runs the models of every mutant, each until one fails.
fn mutants(report: &mut Report) {
    report.step("mutants", check_mutants);
}

/// Returns `cargo SUBCOMMAND` with everything under loom.
fn under_loom(subcommand: &str) -> Command {
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut command = cargo();
    command
        .args([subcommand, "--package", PACKAGE, "--profile", "loom"])
        .arg("--target-dir")
        .arg(target_dir("loom"))
        .env("RUSTFLAGS", format!("{flags} --cfg loom").trim_start());
    command
}

fn test_command() -> Command {
    let mut command = under_loom("test");
    command.args(["--lib", "--tests"]);
    command
}

fn check_mutants() -> StepResult {
    let names = capture(under_loom("run").args(["--quiet", "--bin", "mutants"]))?;
    let mutants: VecDeque<Mutant> = names.lines().filter_map(Mutant::parse).collect();
    if mutants.is_empty() {
        return Err(Failure::new("the ring names no mutant"));
    }
    let binaries = test_binaries()?;
    let count = mutants.len();
    let mut verdicts = judge_all(mutants, &binaries)?;
    verdicts.sort_by(|a, b| a.mutant.cmp(&b.mutant));

    println!("\n| mutant | caught by | after |\n|---|---|---|");
    for verdict in &verdicts {
        let model = verdict.caught_by.as_deref().unwrap_or("**nothing**");
        println!(
            "| {} | {model} | {:.1} s |",
            verdict.mutant, verdict.seconds
        );
    }
    let survivors: Vec<&str> = verdicts
        .iter()
        .filter(|verdict| verdict.caught_by.is_none())
        .map(|verdict| verdict.mutant.as_str())
        .collect();
    if survivors.is_empty() {
        Ok(Outcome::Note(format!("{count} mutants, all caught")))
    } else {
        Err(Failure::new(format!(
            "no model catches {}: add a model to loom-tests/src/bodies.rs that needs it, or drop \
             the ordering if nothing does",
            survivors.join(", ")
        )))
    }
}

/// A mutant, and the model that should catch it.
struct Mutant {
    name: String,
    model: Option<String>,
}

impl Mutant {
    /// Reads a line of the program that lists the mutants.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().map(str::to_owned);
        let name = words.next()?;
        let model = words.next();
        Some(Self { name, model })
    }
}

struct Verdict {
    mutant: String,
    caught_by: Option<String>,
    seconds: f64,
}

/// Judges the mutants on all cores.
fn judge_all(mutants: VecDeque<Mutant>, binaries: &[PathBuf]) -> Result<Vec<Verdict>, Failure> {
    let queue = Mutex::new(mutants);
    let worker = || -> Result<Vec<Verdict>, Failure> {
        let mut verdicts = Vec::new();
        loop {
            let next = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(mutant) = next else {
                return Ok(verdicts);
            };
            let started = Instant::now();
            let caught_by = judge(&mutant, binaries)?;
            let seconds = started.elapsed().as_secs_f64();
            println!(
                "{}: {}",
                mutant.name,
                caught_by.as_deref().unwrap_or("survives every model")
            );
            verdicts.push(Verdict {
                mutant: mutant.name,
                caught_by,
                seconds,
            });
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for handle in handles {
            let verdicts = handle
                .join()
                .map_err(|_| Failure::new("a worker panicked"))?;
            all.extend(verdicts?);
        }
        Ok(all)
    })
}

/// Returns the first model that fails with this mutant: the one that should, or else any.
fn judge(mutant: &Mutant, binaries: &[PathBuf]) -> Result<Option<String>, Failure> {
    if let Some(model) = &mutant.model
        && let Some(caught) = run_models(&mutant.name, binaries, &["--exact", model])?
    {
        return Ok(Some(caught));
    }
    run_models(&mutant.name, binaries, &[])
}

/// Runs models with a mutant until one fails, and returns that one.
fn run_models(
    mutant: &str,
    binaries: &[PathBuf],
    which: &[&str],
) -> Result<Option<String>, Failure> {
    for binary in binaries {
        let failure =
            |error: std::io::Error| Failure::new(format!("{}: {error}", binary.display()));
        let mut child = Command::new(binary)
            .arg("--test-threads=1")
            .args(which)
            .env("RING_MUTANT", mutant)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failure)?;
        let caught = first_failure(&mut child).map_err(failure)?;
        // The child may have ended already, or be about to run the remaining models: neither
        // matters.
        drop(child.kill());
        child.wait().map_err(failure)?;
        if caught.is_some() {
            return Ok(caught);
        }
    }
    Ok(None)
}

/// Reads libtest's lines up to the first that reports a failure. A model that aborts the process
/// leaves its line unfinished.
fn first_failure(child: &mut Child) -> std::io::Result<Option<String>> {
    let Some(pipe) = child.stdout.take() else {
        return Ok(None);
    };
    for line in BufReader::new(pipe).lines() {
        let line = line?;
        let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            continue;
        };
        if result != "ok" && !result.starts_with("ignored") {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// Builds the models and returns their executables.
fn test_binaries() -> Result<Vec<PathBuf>, Failure> {
    let messages = capture(test_command().args(["--no-run", "--quiet", "--message-format=json"]))?;
    let binaries: Vec<PathBuf> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect();
    if binaries.is_empty() {
        return Err(Failure::new(format!("{PACKAGE} has no tests")));
    }
    Ok(binaries)
}
