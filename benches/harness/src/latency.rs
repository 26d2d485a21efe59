//! From a change to the return of the program that waits for it.

use std::time::Duration;

use agentfs_benches::two::now;
use hdrhistogram::Histogram;
use serde_json::json;

use crate::burst::Case;
use crate::cli::Progress;
use crate::model::{Failure, Grid, Line, Part, Plot, float, short};
use crate::program::{Program, Task};
use crate::stage::Place;
use crate::watcher::Reader;

/// Measures from the start of one change to the return of the call that the program waits in
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  agentfs-bench latency
  agentfs-bench latency --samples 20000 --plots plots
  agentfs-bench latency --reader busy --apis native,kernel")]
pub(crate) struct Args {
    /// Changes of each kind, one by one and in turns
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// What the program does meanwhile
    #[arg(long, value_enum, default_value = "asleep")]
    reader: Reader,
    /// What is measured
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "inotify,kqueue,native,kernel"
    )]
    apis: Vec<Case>,
}

impl Args {
    /// A short run, for a first look.
    pub(crate) fn quick() -> Self {
        Self {
            samples: 1000,
            reader: Reader::Asleep,
            apis: vec![Case::Inotify, Case::Kqueue, Case::Native, Case::Kernel],
        }
    }
}

const DIRECTORY: &str = "latency";

struct Measured {
    case: Case,
    place: Place,
    program: Program,
    nanos: Histogram<u64>,
}

pub(crate) fn run(args: &Args, progress: &Progress) -> Result<Part, Failure> {
    let mut all = args
        .apis
        .iter()
        .map(|case| start(*case, args))
        .collect::<Result<Vec<_>, _>>()?;
    let bar = progress.bar("latency", args.samples.into());
    for change in 0..args.samples {
        for it in &mut all {
            it.program.begin()?;
            let said = it.program.answer()?;
            debug_assert_eq!(said, "waiting");
            // Time to fall asleep.
            std::thread::sleep(Duration::from_micros(200));
            let changer = it.place.changer(DIRECTORY, 1);
            let start = now();
            changer.change(change)?;
            let woken: u64 = it.program.answer()?.parse()?;
            it.nanos.record(woken.saturating_sub(start).max(1))?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(part(args, &all))
}

fn start(case: Case, args: &Args) -> Result<Measured, Failure> {
    let place = case.place()?;
    place.make_directory(DIRECTORY)?;
    place.make_file(&format!("{DIRECTORY}/f0"))?;
    place.make_file(&format!("{DIRECTORY}/end"))?;
    let task = Task {
        api: case.api(),
        reader: args.reader,
        directory: DIRECTORY,
        files: 1,
        each: true,
    };
    let program = Program::start(&place, task)?;
    Ok(Measured {
        case,
        place,
        program,
        nanos: Histogram::new(3)?,
    })
}

fn micros(nanos: u64) -> f64 {
    float(nanos) / 1000.0
}

fn part(args: &Args, all: &[Measured]) -> Part {
    const QUANTILES: [(&str, f64); 5] = [
        ("p50", 0.5),
        ("p90", 0.9),
        ("p99", 0.99),
        ("p99.9", 0.999),
        ("max", 1.0),
    ];
    let mut head = vec!["who tells whom"];
    head.extend(QUANTILES.map(|(name, _)| name));
    head.push("p50 by the kernel's");
    let title = "Microseconds from the start of a change to the return of the program's call";
    let mut table = Grid::new(title, &head);
    let p50 = |it: &Measured| micros(it.nanos.value_at_quantile(0.5));
    let kernel = all.iter().find(|it| it.case == Case::Kernel).map(p50);
    let mut raw = serde_json::Map::new();
    for it in all {
        let mut row = vec![it.case.name().to_owned()];
        row.extend(QUANTILES.map(|(_, at)| short(micros(it.nanos.value_at_quantile(at)))));
        row.push(kernel.map_or_else(String::new, |kernel| short(p50(it) / kernel)));
        table.rows.push(row);
        let buckets = it.nanos.iter_recorded();
        let buckets: Vec<_> = buckets
            .map(|it| (it.value_iterated_to(), it.count_at_value()))
            .collect();
        raw.insert(
            it.case.name().to_owned(),
            json!({ "nanos_and_counts": buckets }),
        );
    }
    Part {
        name: "latency".to_owned(),
        title: "Latency".to_owned(),
        about: format!(
            "One change at a time while the program {}, in turns. It covers the change itself, the \
             way to the queue, the wake-up and the read.",
            match args.reader {
                Reader::Busy => "looks again and again",
                Reader::Asleep | Reader::Late => "sleeps",
            }
        ),
        tables: vec![table],
        plots: vec![Plot {
            name: "latency".to_owned(),
            title: "Latency distribution".to_owned(),
            x: "one change in so many takes longer".to_owned(),
            y: "microseconds".to_owned(),
            lines: all.iter().map(distribution).collect(),
        }],
        raw: raw.into(),
    }
}

/// The tail: what one change in `x` exceeds.
fn distribution(it: &Measured) -> Line {
    let mut points = Vec::new();
    let mut one_in = 1.02;
    while one_in <= float(it.nanos.len()) {
        let value = it.nanos.value_at_quantile(1.0 - 1.0 / one_in);
        points.push((one_in, micros(value)));
        one_in *= 1.15;
    }
    Line {
        name: it.case.name().to_owned(),
        points,
    }
}
