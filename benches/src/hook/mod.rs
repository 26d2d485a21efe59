//! What the preloaded library costs a program, and how fast it delivers, without a filesystem.
//!
//! The measured programs are this one, started again with the library preloaded. The daemon is one
//! that only fills rings; what a change takes on its whole way to a program in a mount is the
//! `latency` command's.

mod foreign_read;
mod idle_wakeups;
mod kevent_calls;
mod kevent_wake;
pub(crate) mod measured_program;
mod read_wake;
mod register;
mod spawn;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::Failure;
use crate::child::library;
use crate::goal::Goal;
use crate::report::{Part, Row, Table};
use crate::stage::Chosen;
use crate::statistics::Spread;

/// Measures what the preloaded library costs a program, and how fast it delivers
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  agentfs-bench hook
  agentfs-bench hook --only register")]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen<Section>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Section {
    /// read() of a descriptor that is none of ours
    ForeignRead,
    /// kevent() on the user-space kqueue of the tests; needs cargo, which runs a benchmark of the
    /// library's own package
    KeventCalls,
    /// From a record to the return of a read() that sleeps
    ReadWake,
    /// From a record to the return of a kevent() that sleeps, on the user-space kqueue
    KeventWake,
    /// inotify_add_watch, 10,000 times
    Register,
    /// Wake-ups of programs that wait and hear nothing
    IdleWakeups,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Whether to measure at all, and not only to list the goals.
    measures: bool,
    /// Few repetitions.
    quick: bool,
    /// Blocks of calls of read().
    blocks: u32,
    rounds: usize,
    /// Wake-ups in a round.
    wakes: usize,
    /// Calls of inotify_add_watch.
    watches: usize,
    /// Time in which nothing happens.
    idle_seconds: u64,
}

impl Size {
    const FULL: Self = Self {
        measures: true,
        quick: false,
        blocks: 401,
        rounds: 9,
        wakes: 1000,
        watches: 10_000,
        idle_seconds: 10,
    };
    const QUICK: Self = Self {
        measures: true,
        quick: true,
        blocks: 11,
        rounds: 3,
        wakes: 50,
        watches: 1000,
        idle_seconds: 1,
    };
    /// Measures nothing, so that only the goals come out.
    const NOTHING: Self = Self {
        measures: false,
        ..Self::FULL
    };
}

/// The libraries that are preloaded into the measured programs.
#[derive(Debug, Default)]
struct Libraries {
    shim: PathBuf,
    /// The user-space kqueue.
    kqueue: PathBuf,
}

impl Libraries {
    fn find() -> Result<Self, Failure> {
        Ok(Self {
            shim: library("libagentfs_interpose_shim.so")?,
            kqueue: library("libagentfs_testkq_preload.so")?,
        })
    }

    /// Returns what is preloaded into a program whose kqueue is the one in user space.
    fn both(&self) -> Result<PathBuf, Failure> {
        Ok(std::env::join_paths([&self.shim, &self.kqueue])?.into())
    }
}

type Measure = fn(&Libraries, Size) -> Result<Table, Failure>;

const SECTIONS: [(Section, &str, Measure); 6] = [
    (Section::ForeignRead, "foreign-read", foreign_read::table),
    (Section::KeventCalls, "kevent-calls", kevent_calls::table),
    (Section::ReadWake, "read-wake", read_wake::table),
    (Section::KeventWake, "kevent-wake", kevent_wake::table),
    (Section::Register, "register", register::table),
    (Section::IdleWakeups, "idle-wakeups", idle_wakeups::table),
];

pub(crate) fn run(args: &Args) -> Result<Part, Failure> {
    let size = if args.chosen.quick {
        Size::QUICK
    } else {
        Size::FULL
    };
    let libraries = Libraries::find()?;
    let mut tables = Vec::new();
    for (section, name, measure) in SECTIONS {
        if args.chosen.has(&section) {
            writeln!(std::io::stderr(), "hook: {name}")?;
            tables.push(measure(&libraries, size)?);
        }
    }
    let about = "Cells are medians (min to max) over the runs; ratios are taken round by round.";
    Part::compared("hook", "The preloaded library", about.to_owned(), &tables)
}

/// Returns the goals, without measuring.
pub(crate) fn goals() -> Result<Vec<Goal>, Failure> {
    let mut goals = Vec::new();
    for (_, _, measure) in SECTIONS {
        let table = measure(&Libraries::default(), Size::NOTHING)?;
        goals.extend(table.grid().goals);
    }
    Ok(goals)
}

/// Returns a row, perhaps beside a reference with the most that it should be of that.
fn row(what: &str, figures: &[f64], against: Option<(&str, &[f64], Option<f64>)>) -> Row {
    let row = Row::new(what, figures);
    match against {
        Some((of, theirs, goal)) => row.against(of, Spread::ratio(figures, theirs), goal),
        None => row,
    }
}

/// Returns a path as an argument of a program.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
