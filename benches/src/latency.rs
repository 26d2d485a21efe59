//! From a change to the return of the program that waits for it.

use std::os::fd::AsFd as _;
use std::time::Duration;

use crate::goal::Goal;
use crate::process_pair::now;
use crate::statistics::Spread;
use hdrhistogram::Histogram;
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde_json::json;

use crate::Failure;
use crate::backend::Place;
use crate::burst::Case;
use crate::child::{Program, Task};
use crate::cli::Progress;
use crate::report::part::{Grid, Line, Part, Plot};
use crate::statistics::{float, short};
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
const FILE: &str = "latency/f0";

/// A program that is woken in one way.
struct Measured {
    case: Case,
    place: Place,
    program: Program,
    nanos: Histogram<u64>,
}

/// What a wake-up consists of at the least.
struct Bare {
    bell: EventFd,
    program: Program,
    /// From the write() of an eventfd to the return of the program that sleeps on it.
    woken: Histogram<u64>,
    /// A branch on a mount that nobody watches.
    place: Place,
    /// A change there of a file that the kernel remembers, with its invalidation.
    changed: Histogram<u64>,
}

pub(crate) fn run(args: &Args, progress: &Progress) -> Result<Part, Failure> {
    let mut all = args
        .apis
        .iter()
        .map(|case| start(*case, args))
        .collect::<Result<Vec<_>, _>>()?;
    let mut bare = Bare::start(args)?;
    let bar = progress.bar("latency", args.samples.into());
    for change in 0..args.samples {
        bare.measure(change)?;
        for it in &mut all {
            let changer = it.place.changer(DIRECTORY, 1);
            it.place.look_at(FILE)?;
            let nanos = woken(&mut it.program, || changer.change(change))?;
            it.nanos.record(nanos)?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(part(args, &all, &bare))
}

/// Nanoseconds from the start of what wakes a program to the return of its call.
fn woken(
    program: &mut Program,
    wake: impl FnOnce() -> Result<(), Failure>,
) -> Result<u64, Failure> {
    program.begin()?;
    let said = program.answer()?;
    debug_assert_eq!(said, "waiting");
    // Time to fall asleep, of which nothing tells. Too little would show as a quicker wake, never as
    // a lost one.
    std::thread::sleep(Duration::from_micros(200));
    let start = now();
    wake()?;
    let woken: u64 = program.answer()?.parse()?;
    Ok(woken.saturating_sub(start).max(1))
}

fn prepared(case: Case) -> Result<Place, Failure> {
    let place = case.place()?;
    place.make_directory(DIRECTORY)?;
    place.make_file(FILE)?;
    place.make_file(&format!("{DIRECTORY}/end"))?;
    Ok(place)
}

impl Bare {
    fn start(args: &Args) -> Result<Self, Failure> {
        let bell =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let copy = bell.as_fd().try_clone_to_owned()?;
        Ok(Self {
            bell,
            program: Program::on_eventfd(copy, args.reader)?,
            woken: Histogram::new(3)?,
            place: prepared(Case::Inotify)?,
            changed: Histogram::new(3)?,
        })
    }

    fn measure(&mut self, change: u32) -> Result<(), Failure> {
        let ring = || Ok(self.bell.write(1).map(drop)?);
        self.woken.record(woken(&mut self.program, ring)?)?;
        let changer = self.place.changer(DIRECTORY, 1);
        self.place.look_at(FILE)?;
        let start = now();
        changer.change(change)?;
        Ok(self.changed.record((now() - start).max(1))?)
    }
}

fn start(case: Case, args: &Args) -> Result<Measured, Failure> {
    let place = prepared(case)?;
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

const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];

fn part(args: &Args, all: &[Measured], bare: &Bare) -> Part {
    let mut head = vec!["who tells whom"];
    head.extend(QUANTILES.map(|(name, _)| name));
    head.push("p50 by the kernel's");
    let title = "Microseconds from the start of a change to the return of the program's call";
    let mut table = Grid::new(title, &head);
    let p50 = |nanos: &Histogram<u64>| micros(nanos.value_at_quantile(0.5));
    let kernel = all.iter().find(|it| it.case == Case::Kernel);
    let kernel = kernel.map(|it| p50(&it.nanos));
    let mut raw = serde_json::Map::new();
    let cases = all.iter().map(|it| (it.case.name(), &it.nanos));
    let floor = [
        ("write() of a bare eventfd", &bare.woken),
        ("a change on a mount, nobody is woken", &bare.changed),
    ];
    for (name, nanos) in cases.chain(floor) {
        let mut row = vec![name.to_owned()];
        row.extend(QUANTILES.map(|(_, at)| short(micros(nanos.value_at_quantile(at)))));
        row.push(kernel.map_or_else(String::new, |kernel| short(p50(nanos) / kernel)));
        table.rows.push(row);
        let buckets = nanos.iter_recorded();
        let buckets: Vec<_> = buckets
            .map(|it| (it.value_iterated_to(), it.count_at_value()))
            .collect();
        raw.insert(name.to_owned(), json!({ "nanos_and_counts": buckets }));
    }
    let ours = all.iter().find(|it| it.case == Case::Inotify);
    let goals = ours.map(|it| {
        let least = p50(&bare.woken) + p50(&bare.changed);
        let what = "p50 from a change outside to the return of a read() on a mount";
        let of = "of a bare eventfd's wake and the change with its invalidation";
        Goal::at_most(1.15, of, what, Spread::of(vec![p50(&it.nanos) / least]))
    });
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
        goals: goals.into_iter().collect(),
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
