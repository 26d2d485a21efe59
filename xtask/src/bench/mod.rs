//! `cargo xtask bench`: builds a benchmark as it should be built, runs it, and keeps its tables.
//!
//! A benchmark prints Markdown to its standard output, or with `--json` its goals, the Markdown and
//! the figures of the same run. What it is doing goes to its standard error.

mod document;

use std::process::Command;
use std::time::Duration;

use self::document::{DOCUMENT, Findings};
use crate::report::{
    Failure, Outcome, Report, StepResult, capture, capture_within, run as run_command,
};
use crate::tools::{cargo, target_dir};

/// The limit is more than twice what the longest benchmark takes.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// The package, and the program in it.
const PACKAGE: &str = "agentfs-bench";

/// The name of the benchmark on the command line.
struct Benchmark {
    name: &'static str,
    about: &'static str,
    /// The command of `agentfs-bench`.
    command: &'static str,
    /// The command's usual arguments, with spaces between.
    usual: &'static str,
    /// The arguments that replace the usual ones for a quick run, which shows that the benchmark
    /// works.
    quick: &'static str,
}

/// Returns the benchmark of one stage, which is a command of the same name.
const fn stage(name: &'static str, about: &'static str) -> Benchmark {
    Benchmark {
        name,
        about,
        command: name,
        usual: "",
        quick: "--quick",
    }
}

/// The benchmarks in the order of the flow, and then the whole flow between processes.
const BENCHMARKS: [Benchmark; 9] = [
    stage("ring", "the ring beside what else carries records"),
    stage("fscore", "operations beside the same on tmpfs"),
    stage("route", "from the commit to the record, in one process"),
    stage("mount", "a mounted branch beside other overlays"),
    stage("hook", "what the preloaded library costs a program"),
    Benchmark {
        name: "burst",
        about: "100,000 changes and programs that sleep",
        command: "burst",
        usual: "--rounds 3",
        quick: "--rounds 1 --changes 1000 --files 1,1000",
    },
    Benchmark {
        name: "late",
        about: "100,000 changes and programs that are busy meanwhile",
        command: "burst",
        usual: "--rounds 3 --files 1,100000 --reader late",
        quick: "--rounds 1 --changes 1000 --files 1,1000 --reader late",
    },
    Benchmark {
        name: "latency",
        about: "from a change to the program",
        command: "latency",
        usual: "--samples 3000",
        quick: "--samples 50",
    },
    Benchmark {
        name: "scale",
        about: "many watches, many sessions",
        command: "scale",
        usual: "--max-watches 1000000",
        quick: "--max-watches 1000 --max-sessions 10 --changes 1000",
    },
];

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask bench                    list the benchmarks\n  \
    cargo xtask bench ring               print the ring's tables\n  \
    cargo xtask bench ring --write       and put them and their goals into docs/benchmarks.md\n  \
    cargo xtask bench --all --build      build them all, and run none\n  \
    cargo xtask bench --all --quick      few repetitions: do they run at all?\n  \
    cargo xtask bench --all --write      renew docs/benchmarks.md\n  \
    cargo xtask bench ring -- --help     what this benchmark can do\n  \
    cargo bench -p agentfs-bench         the criterion benchmarks\n\n\
    Run nothing else meanwhile: timings beside a compiler are worth nothing.")]
pub(crate) struct Args {
    /// The benchmark to run; without it the benchmarks are listed
    name: Option<String>,
    /// Run every benchmark
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// Build only
    #[arg(long)]
    build: bool,
    /// Run few repetitions: to see that the benchmark runs, not to quote its figures
    #[arg(long, conflicts_with = "write")]
    quick: bool,
    /// Put the tables and the goals into docs/benchmarks.md
    #[arg(long)]
    write: bool,
    /// Arguments of the benchmark itself, in place of the usual ones
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(report: &mut Report, args: &Args) {
    let chosen: Vec<&Benchmark> = match &args.name {
        Some(name) => BENCHMARKS.iter().filter(|it| it.name == name).collect(),
        None if args.all => BENCHMARKS.iter().collect(),
        None => Vec::new(),
    };
    if chosen.is_empty() {
        report.step("bench", || {
            let lines = BENCHMARKS
                .iter()
                .map(|it| format!("\n  {:<8} {}", it.name, it.about));
            let list = format!("the benchmarks are:{}", lines.collect::<String>());
            match &args.name {
                Some(name) => Err(Failure::new(format!("no benchmark \"{name}\"; {list}"))),
                None => Ok(Outcome::Note(list)),
            }
        });
        return;
    }
    if !report.step("build", || build(&chosen)) || args.build {
        return;
    }
    let mut rows = String::new();
    for it in &chosen {
        report.step(it.name, || bench(it, args, &mut rows));
    }
    println!("\n| benchmark | what | measured | goal | verdict |\n|---|---|---|---|---|\n{rows}");
}

fn build(chosen: &[&Benchmark]) -> StepResult {
    if chosen.iter().any(|it| it.name == "hook") {
        // This benchmark starts the other one itself.
        let kevent = ["--no-run", "--bench", "kevent"];
        let shim = ["--package", "agentfs-interpose-shim"];
        run_command(cargo().arg("bench").args(kevent).args(shim))?;
    }
    let mut command = cargo();
    command.args(["build", "--profile", "bench", "--package", PACKAGE]);
    // What the ring is compared with is too heavy to build for anything else.
    if chosen.iter().any(|it| it.name == "ring") {
        command.args(["--features", "peers"]);
    }
    run_command(&mut command)?;
    Ok(Outcome::Done)
}

fn bench(it: &Benchmark, args: &Args, rows: &mut String) -> StepResult {
    let usual = if args.quick { it.quick } else { it.usual };
    let arguments: Vec<&str> = if args.rest.is_empty() {
        usual.split_whitespace().collect()
    } else {
        args.rest.iter().map(String::as_str).collect()
    };
    // The program runs as it was built: `cargo run` would build again what others have built
    // otherwise meanwhile.
    let mut command = Command::new(target_dir("release").join(PACKAGE));
    command.arg(it.command).args(&arguments);
    let as_it_is = ["--help", "--json", "--list-goals"];
    if args.rest.iter().any(|it| as_it_is.contains(&it.as_str())) {
        run_command(&mut command)?;
        return Ok(Outcome::Done);
    }
    let printed = capture_within(LIMIT, command.arg("--json"))?;
    let findings: Findings = serde_json::from_str(&printed)
        .map_err(|error| Failure::new(format!("what {} printed: {error}", it.name)))?;
    println!("{}", findings.markdown);
    rows.push_str(&findings.goal_rows(it.name));
    let (goals, missed) = findings.missed();
    let mut note = format!("{goals} goals, {missed} missed");
    if args.write {
        let date = capture(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
        let rest: String = args.rest.iter().map(|arg| format!(" {arg}")).collect();
        let rest = if rest.is_empty() {
            rest
        } else {
            format!(" --{rest}")
        };
        let head = format!("`cargo xtask bench {}{rest}`, {}", it.name, date.trim());
        document::keep(it.name, &head, &findings)?;
        note += &format!(", written to {DOCUMENT}");
    }
    Ok(Outcome::Note(note))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    #[test]
    fn every_benchmark_has_its_part_of_the_document() {
        let document = fs::read_to_string(format!("../{DOCUMENT}")).unwrap();
        let parts = document.split("<!-- bench ").skip(1);
        let parts: BTreeSet<&str> = parts.filter_map(|it| it.split(' ').next()).collect();
        let names = BENCHMARKS.iter().map(|it| it.name);
        let expected: BTreeSet<&str> = names.chain(["goals"]).collect();
        assert_eq!(parts, expected);
    }

    #[test]
    fn every_part_comes_from_the_usual_command() {
        let document = fs::read_to_string(format!("../{DOCUMENT}")).unwrap();
        for it in &BENCHMARKS {
            let words = [PACKAGE, it.command, it.usual, "--json"];
            let words = words.into_iter().filter(|it| !it.is_empty());
            let command = format!("`{}`", words.collect::<Vec<_>>().join(" "));
            let (_, part) = document
                .split_once(&format!("<!-- bench {} -->", it.name))
                .unwrap();
            let (part, _) = part.split_once("<!-- end").unwrap();
            assert!(part.contains(&command), "{}: {command}", it.name);
        }
    }
}
