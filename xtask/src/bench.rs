//! `cargo xtask bench`: builds a benchmark as it should be built, runs it, and keeps its table.
//!
//! Every binary of the benches package is a benchmark: it prints a Markdown table to its standard
//! output (or JSON with `--json`), and what it is doing to its standard error.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::report::{Failure, Outcome, Report, StepResult, capture, run as run_command};
use crate::tools::cargo;

const BINARIES: &str = "benches/src/bin";
/// Benchmarks that compare with crates too heavy to build for anything else.
const WITH_PEERS: &[&str] = &["ring"];

const DOCUMENT: &str = "docs/benchmarks.md";

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask bench                    list the benchmarks\n  \
    cargo xtask bench ring               print the ring's table\n  \
    cargo xtask bench ring --write       and put it into docs/benchmarks.md\n  \
    cargo xtask bench ring -- --help     what this benchmark can do\n  \
    cargo xtask bench ring -- --quick    few repetitions: does it run at all?\n  \
    cargo xtask bench --all --write      renew every table\n  \
    cargo bench -p agentfs-benches       the criterion benchmarks\n\n\
    Run nothing else meanwhile: timings beside a compiler are worth nothing.")]
pub(crate) struct Args {
    /// Which benchmark; without it they are listed
    name: Option<String>,
    /// Run every benchmark
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// Put the table into docs/benchmarks.md
    #[arg(long)]
    write: bool,
    /// For the benchmark itself
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    let known = match names() {
        Ok(known) => known,
        Err(why) => {
            report.step("bench", || Err(why));
            return;
        }
    };
    let chosen: Vec<&String> = match &args.name {
        Some(name) => known.iter().filter(|known| *known == name).collect(),
        None if args.all => known.iter().collect(),
        None => Vec::new(),
    };
    if chosen.is_empty() {
        report.step("bench", || {
            let list = format!("the benchmarks are: {}", known.join(", "));
            match &args.name {
                Some(name) => Err(Failure::new(format!("no benchmark \"{name}\"; {list}"))),
                None => Ok(Outcome::Note(list)),
            }
        });
    }
    for name in chosen {
        report.step(name, || bench(name, args));
    }
}

/// `NAME.rs` and `NAME/main.rs`, as cargo finds them.
fn names() -> Result<Vec<String>, Failure> {
    let failure = |error: std::io::Error| Failure::new(format!("{BINARIES}: {error}"));
    let mut names = Vec::new();
    for entry in fs::read_dir(BINARIES).map_err(failure)? {
        let path = entry.map_err(failure)?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            || path.join("main.rs").is_file()
        {
            names.extend(
                path.file_stem()
                    .map(|stem| stem.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    Ok(names)
}

fn bench(name: &str, args: &Args) -> StepResult {
    let mut command = cargo();
    command
        .args(["run", "--profile", "bench", "--package", "agentfs-benches"])
        .args(["--bin", name]);
    if WITH_PEERS.contains(&name) {
        command.args(["--features", "peers"]);
    }
    command.arg("--").args(&args.rest);
    if !args.write {
        run_command(&mut command)?;
        return Ok(Outcome::Done);
    }
    let table = capture(&mut command)?;
    println!("{table}");
    let date = capture(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let rest: String = args.rest.iter().map(|arg| format!(" {arg}")).collect();
    let rest = if rest.is_empty() {
        rest
    } else {
        format!(" --{rest}")
    };
    let head = format!("`cargo xtask bench {name}{rest}`, {}\n\n", date.trim());
    keep(name, &(head + &table))?;
    Ok(Outcome::Note(format!("written to {DOCUMENT}")))
}

/// Replaces the benchmark's part of the document, which lies between two comments.
fn keep(name: &str, table: &str) -> Result<(), Failure> {
    let document = fs::read_to_string(DOCUMENT).unwrap_or_default();
    fs::write(Path::new(DOCUMENT), replaced(&document, name, table))
        .map_err(|error| Failure::new(format!("{DOCUMENT}: {error}")))
}

fn replaced(document: &str, name: &str, table: &str) -> String {
    let (begin, end) = (
        format!("<!-- bench {name} -->"),
        format!("<!-- end {name} -->"),
    );
    let part = format!("{begin}\n## {name}\n\n{}\n{end}\n", table.trim_end());
    let before_and_rest = document.split_once(&begin);
    match before_and_rest.and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1))) {
        Some((before, after)) => format!("{before}{part}{}", after.trim_start_matches('\n')),
        None => format!("{document}\n{part}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_takes_the_place_of_the_old_one() {
        let first = replaced("# Benchmarks\n", "ring", "old\n");
        let both = replaced(&first, "fscore", "other\n");
        let renewed = replaced(&both, "ring", "new\n");
        assert!(!renewed.contains("old"));
        assert!(renewed.find("new") < renewed.find("other"));
        assert_eq!(replaced(&renewed, "ring", "new\n"), renewed);
    }
}
