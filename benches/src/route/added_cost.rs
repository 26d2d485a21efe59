//! What a watch adds to each of 100,000 new files, for the thread that makes them: with a reader that
//! sleeps and with one that does not, beside the kernel's inotify on tmpfs.
//!
//! All is in one process and counts processor time of one thread. What programs in processes of their
//! own hear of as many changes, and when, is the `burst` command's.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentfs_core::id::NodeId;
use agentfs_engine::Api;
use agentfs_engine::synth::inotify::IN_CREATE;
use nix::time::{ClockId, clock_gettime};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::fs::{FileType, Mode, OFlags, mknodat};

use super::Effort;
use crate::Failure;
use crate::engine::{Engine, QueueReader, per};
use crate::goal::Goal;
use crate::report::{Row, Table};
use crate::statistics::{Spread, float, median};

const EVENTS: usize = 100_000;
const FILE_MODE: u32 = 0o100_644;

/// Files that one case makes before it is the next one's turn.
const TURN: usize = 1000;

/// Whether a directory is watched, and how its queue is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// There is no watch, and nothing reads.
    Nobody,
    /// It is read at the end: the reader sleeps until then.
    Sleeper,
    /// There is no watch, and a thread looks all the time.
    Idler,
    /// A thread looks all the time.
    Awake,
}

impl Reading {
    fn watches(self) -> bool {
        matches!(self, Self::Sleeper | Self::Awake)
    }
}

/// A directory that is filled, and what hears of it.
enum Place {
    Ours {
        engine: Box<Engine>,
        reader: QueueReader,
        dir: NodeId,
    },
    Kernel {
        _dir: tempfile::TempDir,
        fd: OwnedFd,
        instance: OwnedFd,
    },
}

impl Place {
    /// Makes a directory in a fresh filesystem of ours.
    fn ours(reading: Reading, ring: usize) -> Result<Self, Failure> {
        let engine = Box::new(Engine::new(reading.watches())?);
        let dir = engine.branch.mkdir(&engine.caller, "/d", 0o755)?.node;
        let reader = engine.open(Api::Inotify, ring)?;
        if reading.watches() {
            engine.watch(&reader, 1, dir, IN_CREATE)?;
        }
        reader.arm()?;
        Ok(Self::Ours {
            engine,
            reader,
            dir,
        })
    }

    /// Makes a directory on a tmpfs.
    fn kernel(reading: Reading, top: &Path) -> Result<Self, Failure> {
        let dir = tempfile::tempdir_in(top)?;
        let fd = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty())?;
        let instance = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        if reading.watches() {
            add_watch(&instance, dir.path(), WatchFlags::CREATE)?;
        }
        let _dir = dir;
        Ok(Self::Kernel { _dir, fd, instance })
    }

    fn fill(&self, names: &[String]) -> Result<(), Failure> {
        for name in names {
            match self {
                Self::Ours { engine, dir, .. } => {
                    let Engine { branch, caller, .. } = &**engine;
                    branch.mknod_at(caller, *dir, name.as_bytes(), FILE_MODE, 0)?;
                }
                Self::Kernel { fd, .. } => {
                    mknodat(fd, name.as_str(), FileType::RegularFile, Mode::RUSR, 0)?;
                }
            }
        }
        Ok(())
    }

    /// Reads until nothing is left, and returns how many events that was.
    fn read(&self) -> Result<usize, Failure> {
        match self {
            Self::Ours { engine, reader, .. } => reader.drain(&engine.service),
            Self::Kernel { instance, .. } => Ok(read_all(instance)),
        }
    }

    fn doorbells(&self) -> u64 {
        match self {
            Self::Ours { engine, .. } => engine.service.counts().doorbells,
            Self::Kernel { .. } => 0,
        }
    }
}

/// Returns the time that this thread had a processor.
fn busy() -> Result<Duration, Failure> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Fills while a reader looks or not, and returns the processor time of the filling alone and what was
/// read.
fn turn(place: &Place, reading: Reading, names: &[String]) -> Result<(Duration, usize), Failure> {
    let fill = || -> Result<Duration, Failure> {
        let before = busy()?;
        place.fill(names)?;
        Ok(busy()? - before)
    };
    if matches!(reading, Reading::Nobody | Reading::Sleeper) {
        return Ok((fill()?, 0));
    }
    let (looks, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut records = 0;
            loop {
                let is_over = done.load(Ordering::Acquire);
                // An error shows in the number of records.
                let read = place.read().unwrap_or(0);
                records += read;
                looks.store(true, Ordering::Release);
                match read {
                    0 if is_over => return records,
                    0 => pause(),
                    _ => {}
                }
            }
        });
        while !looks.load(Ordering::Acquire) {
            pause();
        }
        let filled = fill();
        done.store(true, Ordering::Release);
        let records = reader.join().map_err(|_| "the reader panicked")?;
        Ok((filled?, records))
    })
}

fn names() -> Vec<String> {
    (0..EVENTS).map(|number| format!("f{number:06}")).collect()
}

/// Waits for about a microsecond, in which the processor's other thread has the core to itself.
fn pause() {
    for _ in 0..32 {
        std::hint::spin_loop();
    }
}

/// Reads until nothing is left, and returns how many events had a name.
fn read_all(instance: &OwnedFd) -> usize {
    let mut buffer = vec![0; 65_536];
    let mut records = 0;
    while let Ok(len) = rustix::io::read(instance, &mut buffer) {
        let mut rest = &buffer[..len];
        while let Some((head, tail)) = rest.split_at_checked(16) {
            let name = u32::from_ne_bytes([head[12], head[13], head[14], head[15]]) as usize;
            records += usize::from(name > 0);
            rest = tail.get(name..).unwrap_or_default();
        }
    }
    records
}

struct Case {
    what: &'static str,
    reading: Reading,
    /// Bytes of our ring; none for the kernel.
    ring: Option<usize>,
    /// What it is without a watch, and what the kernel adds in the same case.
    bare: usize,
    kernel: usize,
    /// By round, as all that follow: nanoseconds of processor time a file.
    each: Vec<f64>,
    /// Milliseconds until the last record was read, from the end of the burst on.
    read_ms: Vec<f64>,
    records: Vec<f64>,
    doorbells: Vec<f64>,
}

impl Case {
    fn new(
        what: &'static str,
        reading: Reading,
        ring: Option<usize>,
        bare: usize,
        kernel: usize,
    ) -> Self {
        Self {
            what,
            reading,
            ring,
            bare,
            kernel,
            each: Vec::new(),
            read_ms: Vec::new(),
            records: Vec::new(),
            doorbells: Vec::new(),
        }
    }

    /// Returns the nanoseconds to read a record of those that were left.
    fn of_each(&self) -> Vec<f64> {
        let rounds = self.read_ms.iter().zip(&self.records);
        rounds
            .map(|(ms, records)| ms * 1e6 / records.max(1.0))
            .collect()
    }

    fn lost(&self) -> Spread {
        let all = float(EVENTS as u64);
        Spread::of(self.records.iter().map(|it| all - it).collect())
    }
}

/// Returns the cases; each names its reference by its index.
fn cases() -> Vec<Case> {
    let (ours, large) = (Some(DEFAULT), Some(LARGE));
    vec![
        Case::new("ours, nobody watches", Reading::Nobody, ours, 0, 0),
        Case::new(
            "ours, sleeping reader, ring of 64 KiB",
            Reading::Sleeper,
            ours,
            0,
            6,
        ),
        Case::new(
            "ours, sleeping reader, ring of 16 MiB",
            Reading::Sleeper,
            large,
            0,
            6,
        ),
        Case::new("ours, somebody looks in vain", Reading::Idler, ours, 3, 3),
        Case::new(
            "ours, awake reader, ring of 64 KiB",
            Reading::Awake,
            ours,
            3,
            8,
        ),
        Case::new("kernel, nobody watches", Reading::Nobody, None, 5, 5),
        Case::new("kernel, sleeping reader", Reading::Sleeper, None, 5, 6),
        Case::new("kernel, somebody looks in vain", Reading::Idler, None, 7, 7),
        Case::new("kernel, awake reader", Reading::Awake, None, 7, 8),
    ]
}

const KERNEL_SLEEPS: usize = 6;

/// Cases beside each other, a thousand files at a time and in another order each time: what
/// disturbs one disturbs its reference as well, and none always comes after the same.
fn round(
    cases: &mut [Case],
    names: &[String],
    top: &Path,
    shuffle: &mut Shuffle,
) -> Result<(), Failure> {
    let places = cases.iter().map(|case| match case.ring {
        Some(ring) => Place::ours(case.reading, ring),
        None => Place::kernel(case.reading, top),
    });
    let places = places.collect::<Result<Vec<_>, _>>()?;
    let mut spent = vec![(Duration::ZERO, 0); cases.len()];
    let mut order: Vec<usize> = (0..cases.len()).collect();
    for names in names.chunks(TURN) {
        shuffle.order(&mut order);
        for &at in &order {
            let (took, records) = turn(&places[at], cases[at].reading, names)?;
            spent[at].0 += took;
            spent[at].1 += records;
        }
    }
    for ((case, place), (took, early)) in cases.iter_mut().zip(&places).zip(spent) {
        let (read_ns, late) = per(1, || place.read())?;
        case.each
            .push(took.as_secs_f64() * 1e9 / float(names.len() as u64));
        case.read_ms.push(read_ns / 1e6);
        case.records.push(float((early + late) as u64));
        case.doorbells.push(float(place.doorbells()));
    }
    Ok(())
}

/// Knuth's generator for MMIX.
struct Shuffle(u64);

impl Shuffle {
    fn order(&mut self, order: &mut [usize]) {
        for last in (1..order.len()).rev() {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
            self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
            let drawn = (self.0 >> 33) as usize;
            order.swap(last, drawn % (last + 1));
        }
    }
}

const LARGE: usize = 16 << 20;
const DEFAULT: usize = 64 << 10;

/// Measures bursts of new files.
pub(super) fn tables(effort: Effort) -> Result<Vec<Table>, Failure> {
    let names = names();
    let top = tempfile::tempdir_in("/dev/shm")?;
    let mut cases = cases();
    let mut shuffle = Shuffle(1);
    for _ in 0..effort.rounds {
        // What is compared with each other only: the other's work would leave the caches cold.
        for side in cases.chunk_by_mut(|a, b| a.ring.is_some() == b.ring.is_some()) {
            round(side, &names, top.path(), &mut shuffle)?;
        }
    }
    Ok(vec![making(&cases), reading(&cases)])
}

/// Returns what it costs to read a record that is there.
fn reading(cases: &[Case]) -> Table {
    let theirs = cases[KERNEL_SLEEPS].of_each();
    let row = |at: usize, goal| {
        let figures = cases[at].of_each();
        let records = median(cases[at].records.clone());
        let row = Row::new(cases[at].what, &figures).noted(format!(": {records} records"));
        if at == KERNEL_SLEEPS {
            return row;
        }
        row.against("the kernel's", Spread::ratio(&figures, &theirs), goal)
    };
    let rows = [row(KERNEL_SLEEPS, None), row(1, None), row(2, Some(0.1))];
    Table::new("Reading what 100,000 new files left", "ns/record", rows)
}

/// Returns what each case with a reader adds to the one without, beside what the kernel's adds.
///
/// The kernel's is the median of all rounds: a single difference of its two times may be nearly
/// nothing.
fn making(cases: &[Case]) -> Table {
    let added = |at: usize| -> Vec<f64> {
        let rounds = cases[at].each.iter().zip(&cases[cases[at].bare].each);
        rounds.map(|(all, bare)| all - bare).collect()
    };
    let row = |at: usize| {
        let case = &cases[at];
        let row = Row::new(case.what, &case.each);
        if !case.reading.watches() {
            return row;
        }
        let [records, doorbells] = [&case.records, &case.doorbells].map(|it| median(it.clone()));
        let lost = case.lost().median;
        let row = row
            .noted(format!(
                ": {records} records, {lost} lost, {doorbells} wake-ups"
            ))
            .with(Spread::of(added(at)));
        if case.ring.is_none() {
            return row;
        }
        let theirs = median(added(case.kernel));
        let ratios = added(at).into_iter().map(|ours| ours / theirs);
        row.against(
            "the kernel's added cost",
            Spread::of(ratios.collect()),
            Some(0.2),
        )
    };
    let ours = cases.iter().filter(|case| case.ring.is_some());
    let lost = ours.filter(|case| case.reading.watches()).map(|case| {
        let what = format!("lost: {}", case.what);
        Goal::at_most(0.0, "events", what, case.lost())
    });
    let title = "100,000 new files in a watched directory";
    Table::new(
        title,
        "ns of processor time/file",
        (0..cases.len()).map(row),
    )
    .with("added ns")
    .and_goals(lost)
}
