//! Many changes at once to programs in processes of their own, by a daemon: what they hear, and when.

use std::time::{Duration, Instant};

use agentfs_engine::Counts;
use clap::ValueEnum;
use serde::Serialize;

use crate::Failure;
use crate::backend::{Backend, Changer, Mounting};
use crate::child::PATIENCE;
use crate::cli::Progress;
use crate::goal::Goal;
use crate::process_pair::now;
use crate::report::{Grid, Line, Part, Plot};
use crate::statistics::Spread;
use crate::statistics::{float, median, short};
use crate::usage::Usage;
use crate::watcher::{Api, Reader, Tally, Task, Watcher};

/// Makes many changes at once, and measures until every watcher has heard of the last
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  agentfs-bench burst                             100,000 changes of one file, and of as many files
  agentfs-bench burst --watchers 1,4,16,64        with more and more programs that watch
  agentfs-bench burst --files 1 --reader late     a program that works while the burst lasts
  agentfs-bench burst --files 1000 --apis inotify,kernel --rounds 9 --html burst.html")]
pub(crate) struct Args {
    /// Changes in a burst
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
    /// Files that take turns; more than one number for more than one run. kqueue is left out beyond
    /// 4096, because it takes a descriptor for each
    #[arg(long, value_delimiter = ',', default_value = "1,1000,100000")]
    files: Vec<u32>,
    /// Programs that watch
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=64))]
    watchers: Vec<u32>,
    /// What they do between events
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
    /// Runs of each, in turns
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

/// What delivers a change, and to what program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Case {
    /// AgentFS to an inotify program on a mount, by the preloaded library
    Inotify,
    /// AgentFS to a kqueue program on a mount, by the preloaded library
    Kqueue,
    /// AgentFS to a program that subscribes by itself, without any mount
    Native,
    /// The kernel's inotify on a tmpfs
    Kernel,
}

impl Case {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Inotify => "AgentFS inotify",
            Self::Kqueue => "AgentFS kqueue",
            Self::Native => "AgentFS native",
            Self::Kernel => "kernel inotify",
        }
    }

    pub(crate) fn api(self) -> Api {
        match self {
            Self::Inotify | Self::Kernel => Api::Inotify,
            Self::Kqueue => Api::Kqueue,
            Self::Native => Api::Native,
        }
    }

    pub(crate) fn backend(self) -> Result<Backend, Failure> {
        match self {
            Self::Inotify | Self::Kqueue => Backend::agentfs(Mounting::Usual),
            Self::Native => Backend::agentfs(Mounting::None),
            Self::Kernel => Backend::tmpfs(),
        }
    }
}

/// Beyond it kqueue would run out of descriptors.
const KQUEUE_FILES: u32 = 4096;

/// Changes that show what one costs while nobody watches.
const UNWATCHED: u32 = 10_000;

/// One burst.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    case: Case,
    files: u32,
    watchers: u32,
    /// Nanoseconds for making a change while nobody watches.
    unwatched: f64,
    /// Nanoseconds for making the changes.
    committed: u64,
    /// Nanoseconds from the first change until the last watcher had heard of the end.
    heard: u64,
    tallies: Vec<Tally>,
    /// What the process that made the changes used: the filesystem, its mount, the daemon.
    usage: Usage,
    published: u64,
    coalesced: u64,
    spilled: u64,
    healed: u64,
    overflowed: u64,
    doorbells: u64,
}

impl Args {
    /// Returns the arguments of a short run, for a first look.
    pub(crate) fn quick() -> Self {
        Self {
            changes: 20_000,
            files: vec![1, 20_000],
            watchers: vec![1, 4, 16],
            reader: Reader::Asleep,
            apis: vec![Case::Inotify, Case::Kqueue, Case::Native, Case::Kernel],
            rounds: 3,
        }
    }

    fn runs(&self) -> Vec<(u32, u32, Case)> {
        let mut runs = Vec::new();
        for &files in &self.files {
            for &watchers in &self.watchers {
                let fits = |case: &&Case| **case != Case::Kqueue || files <= KQUEUE_FILES;
                let cases = self.apis.iter().filter(fits);
                runs.extend(cases.map(|case| (files.max(1), watchers, *case)));
            }
        }
        runs
    }
}

pub(crate) fn run(args: &Args, progress: &Progress) -> Result<Part, Failure> {
    let backends: Vec<(Case, Backend)> = args
        .apis
        .iter()
        .map(|case| Ok((*case, case.backend()?)))
        .collect::<Result<_, Failure>>()?;
    let runs = args.runs();
    let bar = progress.bar("burst", u64::from(args.rounds) * runs.len() as u64);
    let mut samples = Vec::new();
    for _ in 0..args.rounds {
        for &(files, watchers, case) in &runs {
            bar.set_message(format!(
                "{}, {files} files, {watchers} watchers",
                case.name()
            ));
            let backend = backends.iter().find(|(it, _)| *it == case);
            let backend = &backend.ok_or("a case without a backend")?.1;
            samples.push(burst(args, backend, (files, watchers, case))?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(part(args, &runs, &samples))
}

fn burst(
    args: &Args,
    backend: &Backend,
    (files, watchers, case): (u32, u32, Case),
) -> Result<Sample, Failure> {
    const DIRECTORY: &str = "burst";
    backend.make_directory(DIRECTORY)?;
    for number in 0..files {
        backend.make_file(&format!("{DIRECTORY}/f{number}"))?;
    }
    backend.make_file(&format!("{DIRECTORY}/end"))?;
    let changer = backend.changer(DIRECTORY, files);
    let unwatched = make(&changer, args.changes.min(UNWATCHED))?;
    let task = Task {
        api: case.api(),
        reader: args.reader,
        directory: DIRECTORY,
        files,
        each: false,
    };
    let mut watching = (0..watchers)
        .map(|_| Watcher::start(backend, task))
        .collect::<Result<Vec<_>, _>>()?;
    for watcher in &mut watching {
        watcher.begin()?;
    }
    // Time for all to fall asleep, which no event announces.
    std::thread::sleep(Duration::from_millis(20));
    let (counts, usage, start) = (backend.counts(), Usage::of_process(), now());
    make(&changer, args.changes)?;
    let committed = now() - start;
    changer.end()?;
    if args.reader == Reader::Late {
        for watcher in &mut watching {
            watcher.begin()?;
        }
    }
    let (mut tallies, deadline) = (Vec::<Tally>::new(), Instant::now() + PATIENCE);
    for watcher in &watching {
        tallies.push(loop {
            if let Some(line) = watcher.line(Duration::from_millis(500))? {
                break serde_json::from_str(&line)?;
            }
            if Instant::now() > deadline {
                let name = case.name();
                return Err(format!("{name}: no end was heard for {PATIENCE:?}").into());
            }
            // A queue that overflowed has lost the end as well.
            changer.end()?;
        });
    }
    let usage = Usage::of_process().since(usage);
    let last = tallies.iter().map(|it| it.ended).max().unwrap_or(start);
    let after = backend.counts();
    drop(watching);
    backend.remove_directory(DIRECTORY)?;
    let since = |count: fn(&Counts) -> u64| count(&after) - count(&counts);
    Ok(Sample {
        case,
        files,
        watchers,
        unwatched,
        committed,
        heard: last.saturating_sub(start),
        tallies,
        usage,
        published: since(|it| it.published),
        coalesced: since(|it| it.coalesced),
        spilled: since(|it| it.spilled),
        healed: since(|it| it.healed),
        overflowed: since(|it| it.overflowed),
        doorbells: since(|it| it.doorbells),
    })
}

/// Makes changes, and returns the nanoseconds of each.
fn make(changer: &Changer<'_>, changes: u32) -> Result<f64, Failure> {
    let start = now();
    for change in 0..changes {
        changer.change(change)?;
    }
    Ok(float(now() - start) / f64::from(changes))
}

impl Sample {
    /// Returns the mean of a watcher.
    fn each(&self, of: impl Fn(&Tally) -> f64) -> f64 {
        self.tallies.iter().map(of).sum::<f64>() / f64::from(self.watchers)
    }

    fn cpu(&self, changes: u32) -> f64 {
        let watchers: i64 = self.tallies.iter().map(|it| it.usage.cpu_us).sum();
        let micros = u64::try_from(self.usage.cpu_us + watchers).unwrap_or(0);
        float(micros) / f64::from(changes)
    }
}

const HEAD: [&str; 14] = [
    "delivered by",
    "watchers",
    "changes/s until all have heard",
    "times the kernel's",
    "ns to make a change",
    "the same unwatched",
    "events of a watcher",
    "files not heard of",
    "overflows",
    "sleeps of a watcher",
    "doorbells",
    "coalesced",
    "spilled + differences",
    "CPU us per change",
];

/// Returns the goals, without measuring.
pub(crate) fn goals(args: &Args) -> Vec<Goal> {
    judged(args, &args.runs(), &[])
}

fn part(args: &Args, runs: &[(u32, u32, Case)], samples: &[Sample]) -> Part {
    let (mut tables, mut plots) = (Vec::new(), Vec::new());
    for &files in &args.files {
        let title = format!(
            "{} changes, {files} file{} in turns, watchers {}",
            args.changes,
            if files == 1 { "" } else { "s" },
            args.reader.name()
        );
        let mut table = Grid::new(title.clone(), &HEAD);
        let mut lines: Vec<Line> = Vec::new();
        for &(_, watchers, case) in runs.iter().filter(|(it, _, _)| *it == files) {
            let of = |case| -> Vec<&Sample> {
                let is_it =
                    |it: &&Sample| (it.case, it.files, it.watchers) == (case, files, watchers);
                samples.iter().filter(is_it).collect()
            };
            let (ours, kernel) = (of(case), of(Case::Kernel));
            table.rows.push(row(args, case, watchers, &ours, &kernel));
            let point = (f64::from(watchers), rate(args, &ours));
            match lines.iter_mut().find(|it| it.name == case.name()) {
                Some(line) => line.points.push(point),
                None => lines.push(Line {
                    name: case.name().to_owned(),
                    points: vec![point],
                }),
            }
        }
        tables.push(table);
        plots.push(Plot {
            name: format!("burst-{files}"),
            title,
            x: "watchers".to_owned(),
            y: "changes per second until all have heard".to_owned(),
            lines,
        });
    }
    Part {
        name: "burst".to_owned(),
        title: "Bursts".to_owned(),
        about: "Changes are made from outside the mount, by calls of the filesystem in the daemon's \
                process, so that the engine is measured and not a request for each change; the \
                kernel's are truncate(2) on a tmpfs. The clock runs from the first change until the \
                last program has read the event of the last one. Figures are medians of the runs, \
                which take turns. A sleep is a voluntary context switch of the watching process."
            .to_owned(),
        tables,
        plots,
        goals: judged(args, runs, samples),
        raw: serde_json::to_value(samples).unwrap_or_default(),
    }
}

/// States that nothing goes unheard, and that a program that is busy is rung once.
fn judged(args: &Args, runs: &[(u32, u32, Case)], samples: &[Sample]) -> Vec<Goal> {
    let mut goals = Vec::new();
    for &(files, watchers, case) in runs.iter().filter(|(.., it)| *it != Case::Kernel) {
        let of = |figure: &dyn Fn(&Sample) -> f64| {
            let is_it = |it: &&Sample| (it.case, it.files, it.watchers) == (case, files, watchers);
            Spread::of(samples.iter().filter(is_it).map(figure).collect())
        };
        let what = format!(
            "{}, {} changes of {files} files, {watchers} watchers, {}",
            case.name(),
            args.changes,
            args.reader.name()
        );
        let unheard = of(&|it| it.each(|tally| unheard(it, args, tally)));
        goals.push(Goal::at_most(
            0.0,
            "files not heard of",
            what.clone(),
            unheard,
        ));
        if args.reader == Reader::Late && files == 1 {
            // One for the file and, if it came when the queue was empty, one for the end.
            let doorbells = of(&|it| float(it.doorbells) / f64::from(it.watchers));
            goals.push(Goal::at_most(
                2.0,
                "doorbells for a watcher",
                what,
                doorbells,
            ));
        }
    }
    goals
}

/// Returns how many files were changed that a watcher has not heard of.
fn unheard(sample: &Sample, args: &Args, tally: &Tally) -> f64 {
    let changed = u64::from(sample.files.min(args.changes));
    float(changed.saturating_sub(tally.files))
}

fn rate(args: &Args, samples: &[&Sample]) -> f64 {
    let heard = samples.iter().map(|it| float(it.heard.max(1))).collect();
    f64::from(args.changes) * 1e9 / median(heard).max(1.0)
}

fn row(
    args: &Args,
    case: Case,
    watchers: u32,
    ours: &[&Sample],
    kernel: &[&Sample],
) -> Vec<String> {
    let middle = |of: &dyn Fn(&Sample) -> f64| median(ours.iter().map(|it| of(it)).collect());
    let ratios: Vec<f64> = ours
        .iter()
        .zip(kernel)
        .map(|(ours, kernel)| float(kernel.heard) / float(ours.heard.max(1)))
        .collect();
    vec![
        case.name().to_owned(),
        watchers.to_string(),
        short(rate(args, ours)),
        if ratios.is_empty() {
            String::new()
        } else {
            short(median(ratios))
        },
        short(middle(&|it| float(it.committed)) / f64::from(args.changes)),
        short(middle(&|it| it.unwatched)),
        short(middle(&|it| it.each(|it| float(it.events)))),
        short(middle(&|it| it.each(|tally| unheard(it, args, tally)))),
        short(middle(&|it| it.each(|it| float(it.overflows)))),
        short(middle(&|it| {
            it.each(|it| float(u64::try_from(it.usage.slept).unwrap_or(0)))
        })),
        short(middle(&|it| float(it.doorbells))),
        short(middle(&|it| float(it.coalesced))),
        short(middle(&|it| float(it.spilled + it.healed))),
        short(middle(&|it| it.cpu(args.changes))),
    ]
}
