//! From a change to the return of the call in which a program waits for it, by a daemon.
//!
//! What the ring alone takes is in `ring --only wake`, and what the preloaded library takes in `hook
//! --only read-wake` and `hook --only kevent-wake`: both without a filesystem and without a mount.

use std::os::fd::AsFd as _;

use hdrhistogram::Histogram;
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde_json::json;

use crate::Failure;
use crate::backend::{Backend, Mounting};
use crate::burst::Case;
use crate::child::fall_asleep;
use crate::cli::Progress;
use crate::goal::Goal;
use crate::process_pair::now;
use crate::report::{Grid, Line, Part, Plot, Row, Table};
use crate::statistics::{Spread, float, micros, short};
use crate::watcher::{Reader, Task, Watcher};

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
    /// Returns the arguments of a short run, for a first look.
    pub(crate) fn quick() -> Self {
        Self {
            samples: 1000,
            reader: Reader::Asleep,
            apis: vec![Case::Inotify, Case::Kqueue, Case::Native, Case::Kernel],
        }
    }

    fn has(&self, case: Case) -> bool {
        self.apis.contains(&case)
    }
}

const DIRECTORY: &str = "latency";
const FILE: &str = "latency/f0";

/// Rounds whose medians are compared: each is that part of the changes.
const ROUNDS: u32 = 9;

/// The times of one kind of change.
struct Times {
    name: &'static str,
    all: Histogram<u64>,
    /// Microseconds in this round.
    round: Vec<f64>,
    /// The median of each round, in microseconds.
    medians: Vec<f64>,
}

impl Times {
    fn new(name: &'static str) -> Result<Self, Failure> {
        Ok(Self {
            name,
            all: Histogram::new(3)?,
            round: Vec::new(),
            medians: Vec::new(),
        })
    }

    fn record(&mut self, nanos: u64) -> Result<(), Failure> {
        self.round.push(micros(nanos));
        Ok(self.all.record(nanos.max(1))?)
    }

    fn end_round(&mut self) {
        if !self.round.is_empty() {
            self.medians
                .push(Spread::of(std::mem::take(&mut self.round)).median);
        }
    }

    fn p50(&self) -> f64 {
        micros(self.all.value_at_quantile(0.5))
    }
}

/// All times of a run.
struct Found {
    cases: Vec<(Case, Times)>,
    /// AgentFS to an inotify program on a mount with `--echo never`.
    without_echo: Times,
    /// From the write() of an eventfd to the return of the program that sleeps on it.
    eventfd: Times,
    /// A change on a mount that nobody watches, of a file that the kernel remembers.
    mounted: Times,
    /// How much longer that takes than a change without a mount: the invalidation.
    invalidation: Times,
}

impl Found {
    fn new(args: &Args) -> Result<Self, Failure> {
        let cases = args.apis.iter();
        Ok(Self {
            cases: cases
                .map(|case| Ok((*case, Times::new(case.name())?)))
                .collect::<Result<_, Failure>>()?,
            without_echo: Times::new("AgentFS inotify, --echo never")?,
            eventfd: Times::new("write() of a bare eventfd")?,
            mounted: Times::new("a change on a mount, nobody is woken")?,
            invalidation: Times::new("invalidation of the file alone")?,
        })
    }

    fn of(&self, case: Case) -> Option<&Times> {
        let found = self.cases.iter().find(|(it, _)| *it == case);
        found.map(|(_, times)| times)
    }

    fn end_round(&mut self) {
        let alone = [
            &mut self.without_echo,
            &mut self.eventfd,
            &mut self.mounted,
            &mut self.invalidation,
        ];
        let cases = self.cases.iter_mut().map(|(_, times)| times);
        cases.chain(alone).for_each(Times::end_round);
    }
}

/// A filesystem, and a program that waits for changes in it.
struct Watched {
    backend: Backend,
    watcher: Watcher,
}

impl Watched {
    fn start(backend: Backend, case: Case, args: &Args) -> Result<Self, Failure> {
        prepare(&backend)?;
        let task = Task {
            api: case.api(),
            reader: args.reader,
            directory: DIRECTORY,
            files: 1,
            each: true,
        };
        let watcher = Watcher::start(&backend, task)?;
        Ok(Self { backend, watcher })
    }

    /// Returns the nanoseconds from the start of a change to the return of the program's call.
    fn change(&mut self, change: u32) -> Result<u64, Failure> {
        let changer = self.backend.changer(DIRECTORY, 1);
        self.backend.read_back(FILE)?;
        self.watcher.woken(|| changer.change(change))
    }
}

fn prepare(backend: &Backend) -> Result<(), Failure> {
    backend.make_directory(DIRECTORY)?;
    backend.make_file(FILE)?;
    backend.make_file(&format!("{DIRECTORY}/end"))
}

/// What a wake-up consists of at the least.
struct Floor {
    bell: EventFd,
    watcher: Watcher,
    /// Branches that nobody watches, one on a mount and one without.
    mounted: Backend,
    unmounted: Backend,
}

impl Floor {
    fn start(args: &Args) -> Result<Self, Failure> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = EventFd::from_value_and_flags(0, flags)?;
        let copy = bell.as_fd().try_clone_to_owned()?;
        let floor = Self {
            bell,
            watcher: Watcher::on_eventfd(copy, args.reader)?,
            mounted: Backend::agentfs(Mounting::Usual)?,
            unmounted: Backend::agentfs(Mounting::None)?,
        };
        prepare(&floor.mounted)?;
        prepare(&floor.unmounted)?;
        Ok(floor)
    }

    fn measure(&mut self, change: u32, found: &mut Found) -> Result<(), Failure> {
        let ring = || Ok(self.bell.write(1).map(drop)?);
        found.eventfd.record(self.watcher.woken(ring)?)?;
        let [mounted, unmounted] = [&self.mounted, &self.unmounted];
        let changers = [mounted, unmounted].map(|it| it.changer(DIRECTORY, 1));
        mounted.read_back(FILE)?;
        // So that the processor is as idle as when a program is woken.
        fall_asleep();
        let start = now();
        changers[0].change(change)?;
        let between = now();
        changers[1].change(change)?;
        let (mounted, unmounted) = (between - start, now() - between);
        found.mounted.record(mounted)?;
        let invalidation = mounted.saturating_sub(unmounted);
        found.invalidation.record(invalidation)
    }
}

pub(crate) fn run(args: &Args, progress: &Progress) -> Result<Part, Failure> {
    let mut found = Found::new(args)?;
    let mut all = args
        .apis
        .iter()
        .map(|case| Watched::start(case.backend()?, *case, args))
        .collect::<Result<Vec<_>, Failure>>()?;
    let mut without_echo = None;
    if args.has(Case::Inotify) {
        let backend = Backend::agentfs(Mounting::WithoutEcho)?;
        without_echo = Some(Watched::start(backend, Case::Inotify, args)?);
    }
    let mut floor = Floor::start(args)?;
    let bar = progress.bar("latency", args.samples.into());
    let round = args.samples.div_ceil(ROUNDS);
    for change in 0..args.samples {
        floor.measure(change, &mut found)?;
        for (watched, (_, times)) in all.iter_mut().zip(&mut found.cases) {
            times.record(watched.change(change)?)?;
        }
        if let Some(watched) = &mut without_echo {
            found.without_echo.record(watched.change(change)?)?;
        }
        if (change + 1) % round == 0 {
            found.end_round();
        }
        bar.inc(1);
    }
    found.end_round();
    bar.finish_and_clear();
    Ok(part(args, &found))
}

/// Returns the goals, without measuring.
pub(crate) fn goals(args: &Args) -> Result<Vec<Goal>, Failure> {
    let part = part(args, &Found::new(args)?);
    Ok(part.all_goals().cloned().collect())
}

const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];

fn part(args: &Args, found: &Found) -> Part {
    let mut raw = serde_json::Map::new();
    let mut tables = vec![quantiles(found, &mut raw)];
    let mut goals = Vec::new();
    if let Some(ours) = found.of(Case::Inotify) {
        tables.push(rounds(ours, found).grid());
        let least = found.eventfd.p50() + found.mounted.p50();
        let what = "p50 from a change outside to the return of a read() on a mount";
        let of = "of a bare eventfd's wake and the change with its invalidation";
        let ratio = Spread::of(vec![ours.p50() / least]);
        goals.push(Goal::at_most(1.15, of, what, ratio));
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
        tables,
        plots: vec![Plot {
            name: "latency".to_owned(),
            title: "Latency distribution".to_owned(),
            x: "one change in so many takes longer".to_owned(),
            y: "microseconds".to_owned(),
            lines: found.cases.iter().map(|(_, it)| distribution(it)).collect(),
        }],
        goals,
        raw: raw.into(),
    }
}

/// Returns the quantiles of each kind of change, and puts the whole distribution into `raw`.
fn quantiles(found: &Found, raw: &mut serde_json::Map<String, serde_json::Value>) -> Grid {
    let mut head = vec!["delivered by"];
    head.extend(QUANTILES.map(|(name, _)| name));
    head.push("p50 by the kernel's");
    let title = "Microseconds from the start of a change to the return of the program's call";
    let mut table = Grid::new(title, &head);
    let kernel = found.of(Case::Kernel).map(Times::p50);
    let cases = found.cases.iter().map(|(_, times)| times);
    for times in cases.chain([&found.eventfd, &found.mounted]) {
        let mut row = vec![times.name.to_owned()];
        let quantile = |at| short(micros(times.all.value_at_quantile(at)));
        row.extend(QUANTILES.map(|(_, at)| quantile(at)));
        row.push(kernel.map_or_else(String::new, |kernel| short(times.p50() / kernel)));
        table.rows.push(row);
        let buckets = times.all.iter_recorded();
        let buckets: Vec<_> = buckets
            .map(|it| (it.value_iterated_to(), it.count_at_value()))
            .collect();
        let distribution = json!({ "nanos_and_counts": buckets });
        raw.insert(times.name.to_owned(), distribution);
    }
    table
}

/// Compares a change that is heard in a mount with a bare wake-up and the invalidation alone, which
/// has to come before it, round by round.
fn rounds(ours: &Times, found: &Found) -> Table {
    let invalidation = &found.invalidation.medians;
    let with_invalidation = |alone: &Times| -> Vec<f64> {
        let pairs = alone.medians.iter().zip(invalidation);
        pairs.map(|(alone, more)| alone + more).collect()
    };
    let bare = with_invalidation(&found.eventfd);
    let row = |times: &Times| Row::new(times.name, &times.medians);
    let against = |what: &str, times: &Times, of: &str, reference: &[f64], goal| {
        let ratio = Spread::ratio(&times.medians, reference);
        Row::new(what, &times.medians).against(of, ratio, goal)
    };
    let what = "a change from outside, heard in the mount";
    let (name, other) = ("eventfd and invalidation", "inotify and invalidation");
    let kernel = found.of(Case::Kernel);
    let mut rows = vec![row(&found.eventfd)];
    rows.extend(kernel.map(row));
    rows.push(row(&found.invalidation));
    rows.push(against(what, ours, name, &bare, Some(1.15)));
    rows.extend(kernel.map(|kernel| {
        let native = with_invalidation(kernel);
        against(what, ours, other, &native, Some(1.0))
    }));
    let plain = "the same, --echo never";
    rows.push(against(plain, &found.without_echo, name, &bare, None));
    let title = "From a change outside a mount to the return of a read() that sleeps in it";
    Table::new(title, "microseconds", rows)
}

/// Returns the tail: what one change in `x` exceeds.
fn distribution(it: &Times) -> Line {
    let mut points = Vec::new();
    let mut one_in = 1.02;
    while one_in <= float(it.all.len()) {
        let value = it.all.value_at_quantile(1.0 - 1.0 / one_in);
        points.push((one_in, micros(value)));
        one_in *= 1.15;
    }
    Line {
        name: it.name.to_owned(),
        points,
    }
}
