//! 100,000 events at once, with a reader that sleeps and with one that does not, beside the kernel.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentfs_benches::Spread;
use agentfs_benches::goal::Goal;
use agentfs_benches::table::{Ratio, Row, Table};
use agentfs_core::OpenFlags;
use agentfs_core::id::NodeId;
use agentfs_engine::Api;
use agentfs_engine::synth::inotify::{IN_CREATE, IN_MODIFY};
use agentfs_testkit::random::Random;
use nix::time::{ClockId, clock_gettime};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::fs::{FileType, Mode, OFlags, mknodat};

use crate::rig::{Reader, Rig, per};
use crate::{Effort, Failure};

const EVENTS: usize = 100_000;
const FILE_MODE: u32 = 0o100_644;

/// Files that one case makes before it is the next one's turn.
const TURN: usize = 1000;

/// Who reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Nobody, and nobody watches.
    Nobody,
    /// Whoever slept all the time, at the end.
    Sleeper,
    /// A thread that looks all the time, and there is no watch.
    Idler,
    /// A thread that looks all the time.
    Awake,
}

impl Who {
    fn watches(self) -> bool {
        matches!(self, Self::Sleeper | Self::Awake)
    }
}

/// A directory that is filled, and what hears of it.
enum Place {
    Ours {
        rig: Box<Rig>,
        reader: Reader,
        dir: NodeId,
    },
    Kernel {
        _dir: tempfile::TempDir,
        fd: OwnedFd,
        instance: OwnedFd,
    },
}

impl Place {
    /// In a fresh FsCore.
    fn ours(who: Who, ring: usize) -> Result<Self, Failure> {
        let rig = Box::new(Rig::new(who.watches())?);
        let dir = rig.branch.mkdir(&rig.caller, "/d", 0o755)?.node;
        let reader = rig.open(Api::Inotify, ring)?;
        if who.watches() {
            rig.watch(&reader, 1, dir, IN_CREATE)?;
        }
        reader.arm()?;
        Ok(Self::Ours { rig, reader, dir })
    }

    /// On a tmpfs.
    fn kernel(who: Who, top: &Path) -> Result<Self, Failure> {
        let dir = tempfile::tempdir_in(top)?;
        let fd = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty())?;
        let instance = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        if who.watches() {
            add_watch(&instance, dir.path(), WatchFlags::CREATE)?;
        }
        let _dir = dir;
        Ok(Self::Kernel { _dir, fd, instance })
    }

    fn fill(&self, names: &[String]) -> Result<(), Failure> {
        for name in names {
            match self {
                Self::Ours { rig, dir, .. } => {
                    let Rig { branch, caller, .. } = &**rig;
                    branch.mknod_at(caller, *dir, name.as_bytes(), FILE_MODE, 0)?;
                }
                Self::Kernel { fd, .. } => {
                    mknodat(fd, name.as_str(), FileType::RegularFile, Mode::RUSR, 0)?;
                }
            }
        }
        Ok(())
    }

    /// Reads until nothing is left, and counts.
    fn read(&self) -> Result<usize, Failure> {
        match self {
            Self::Ours { rig, reader, .. } => reader.drain(&rig.service),
            Self::Kernel { instance, .. } => Ok(read_all(instance)),
        }
    }

    fn doorbells(&self) -> u64 {
        match self {
            Self::Ours { rig, .. } => rig.service.counts().doorbells,
            Self::Kernel { .. } => 0,
        }
    }
}

/// Time that this thread had a processor.
fn busy() -> Result<Duration, Failure> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Fills, while somebody looks or not; processor time of the filling alone, and what was read.
fn turn(place: &Place, who: Who, names: &[String]) -> Result<(Duration, usize), Failure> {
    let fill = || -> Result<Duration, Failure> {
        let before = busy()?;
        place.fill(names)?;
        Ok(busy()? - before)
    };
    if matches!(who, Who::Nobody | Who::Sleeper) {
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

/// About a microsecond, in which the processor's other thread has the core to itself.
fn pause() {
    for _ in 0..32 {
        std::hint::spin_loop();
    }
}

/// Reads until nothing is left, and counts the events about a name.
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
    who: Who,
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
    fn new(what: &'static str, who: Who, ring: Option<usize>, bare: usize, kernel: usize) -> Self {
        Self {
            what,
            who,
            ring,
            bare,
            kernel,
            each: Vec::new(),
            read_ms: Vec::new(),
            records: Vec::new(),
            doorbells: Vec::new(),
        }
    }

    /// Nanoseconds to read a record of those that were left.
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

/// The cases; each names its reference by its place here.
fn cases() -> Vec<Case> {
    let (ours, large) = (Some(DEFAULT), Some(LARGE));
    vec![
        Case::new("ours, nobody watches", Who::Nobody, ours, 0, 0),
        Case::new(
            "ours, sleeping reader, ring of 64 KiB",
            Who::Sleeper,
            ours,
            0,
            6,
        ),
        Case::new(
            "ours, sleeping reader, ring of 16 MiB",
            Who::Sleeper,
            large,
            0,
            6,
        ),
        Case::new("ours, somebody looks in vain", Who::Idler, ours, 3, 3),
        Case::new("ours, awake reader, ring of 64 KiB", Who::Awake, ours, 3, 8),
        Case::new("kernel, nobody watches", Who::Nobody, None, 5, 5),
        Case::new("kernel, sleeping reader", Who::Sleeper, None, 5, 6),
        Case::new("kernel, somebody looks in vain", Who::Idler, None, 7, 7),
        Case::new("kernel, awake reader", Who::Awake, None, 7, 8),
    ]
}

const KERNEL_SLEEPS: usize = 6;

/// Cases beside each other, a thousand files at a time and in another order each time: what
/// disturbs one disturbs its reference as well, and none always comes after the same.
fn round(
    cases: &mut [Case],
    names: &[String],
    top: &Path,
    random: &mut Random,
) -> Result<(), Failure> {
    let places = cases.iter().map(|case| match case.ring {
        Some(ring) => Place::ours(case.who, ring),
        None => Place::kernel(case.who, top),
    });
    let places = places.collect::<Result<Vec<_>, _>>()?;
    let mut spent = vec![(Duration::ZERO, 0); cases.len()];
    let mut order: Vec<usize> = (0..cases.len()).collect();
    for names in names.chunks(TURN) {
        random.shuffle(&mut order);
        for &at in &order {
            let (took, records) = turn(&places[at], cases[at].who, names)?;
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

const LARGE: usize = 16 << 20;
const DEFAULT: usize = 64 << 10;

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

fn median(counts: &[f64]) -> f64 {
    Spread::of(counts.to_vec()).median
}

/// Bursts of new files, and of writes to one file.
pub(crate) fn run(effort: Effort) -> Result<Vec<Table>, Failure> {
    let names = names();
    let top = tempfile::tempdir_in("/dev/shm")?;
    let mut cases = cases();
    let mut random = Random::new(1);
    for _ in 0..effort.rounds {
        // What is compared with each other only: the other's work would leave the caches cold.
        for side in cases.chunk_by_mut(|a, b| a.ring.is_some() == b.ring.is_some()) {
            round(side, &names, top.path(), &mut random)?;
        }
    }
    Ok(vec![files(&cases), reading(&cases), one_file(effort)?])
}

/// What a record costs that is there to be read.
fn reading(cases: &[Case]) -> Table {
    let theirs = cases[KERNEL_SLEEPS].of_each();
    let row = |at: usize, goal| {
        let figures = cases[at].of_each();
        Row {
            what: cases[at].what.to_owned(),
            note: format!(": {} records", median(&cases[at].records)),
            figure: Spread::of(figures.clone()),
            also: None,
            ratio: (at != KERNEL_SLEEPS).then(|| Ratio {
                of: "the kernel's".to_owned(),
                spread: Spread::ratio(&figures, &theirs),
                goal,
            }),
        }
    };
    Table {
        title: "Reading what 100,000 new files left".to_owned(),
        unit: "ns/record".to_owned(),
        also: String::new(),
        further: Vec::new(),
        rows: vec![row(KERNEL_SLEEPS, None), row(1, None), row(2, Some(0.1))],
    }
}

/// What each case with a reader adds to the one without, beside what the kernel's adds. The
/// kernel's is the median of all rounds: a single difference of its two times may be nearly nothing.
fn files(cases: &[Case]) -> Table {
    let added = |at: usize| -> Vec<f64> {
        let rounds = cases[at].each.iter().zip(&cases[cases[at].bare].each);
        rounds.map(|(all, bare)| all - bare).collect()
    };
    let row = |at: usize| {
        let case = &cases[at];
        let watched = case.who.watches();
        let note = if watched {
            let (records, doorbells) = (median(&case.records), median(&case.doorbells));
            let lost = case.lost().median;
            format!(": {records} records, {lost} lost, {doorbells} wake-ups")
        } else {
            String::new()
        };
        let is_ours = watched && case.ring.is_some();
        Row {
            what: case.what.to_owned(),
            note,
            figure: Spread::of(case.each.clone()),
            also: watched.then(|| Spread::of(added(at))),
            ratio: is_ours.then(|| {
                let theirs = median(&added(case.kernel));
                let ratios = added(at).into_iter().map(|ours| ours / theirs);
                Ratio {
                    of: "the kernel's added cost".to_owned(),
                    spread: Spread::of(ratios.collect()),
                    goal: Some(0.2),
                }
            }),
        }
    };
    let ours = cases.iter().filter(|case| case.ring.is_some());
    let further = ours.filter(|case| case.who.watches()).map(|case| {
        let what = format!("lost: {}", case.what);
        Goal::at_most(0.0, "events", what, case.lost())
    });
    Table {
        title: "100,000 new files in a watched directory".to_owned(),
        unit: "ns of processor time/file".to_owned(),
        also: "added ns".to_owned(),
        further: further.collect(),
        rows: (0..cases.len()).map(row).collect(),
    }
}

/// 100,000 writes to one file while the reader sleeps.
fn one_file(effort: Effort) -> Result<Table, Failure> {
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut all_records, mut doorbells) = (Vec::new(), Vec::new());
    let top = tempfile::tempdir_in("/dev/shm")?;
    let path = top.path().join("f");
    for _ in 0..effort.rounds {
        let rig = Rig::new(true)?;
        let file = rig.branch.open(&rig.caller, "/f", flags, 0o644)?;
        let reader = rig.open(Api::Inotify, DEFAULT)?;
        let node = rig.branch.node_of(file)?;
        rig.watch(&reader, 1, node, IN_MODIFY)?;
        reader.arm()?;
        let (each, ()) = per(EVENTS, || {
            for _ in 0..EVENTS {
                rig.branch.write_at(&rig.caller, file, 0, b"x")?;
            }
            Ok(())
        })?;
        let records = reader.drain(&rig.service)?;
        ours.push(each);
        all_records.push(float(records as u64));
        doorbells.push(float(rig.service.counts().doorbells));

        let instance = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let file = std::fs::File::create(&path)?;
        add_watch(&instance, &path, WatchFlags::MODIFY)?;
        let (each, ()) = per(EVENTS, || {
            for _ in 0..EVENTS {
                rustix::io::pwrite(&file, b"x", 0)?;
            }
            Ok(())
        })?;
        theirs.push(each);
    }
    let further = [("records", all_records), ("wake-ups", doorbells)];
    let further = further.map(|(of, counts)| {
        let what = "100,000 writes to one watched file, the reader sleeps";
        Goal::at_most(1.0, of, what, Spread::of(counts))
    });
    Ok(Table {
        title: "100,000 writes to one watched file, the reader sleeps".to_owned(),
        unit: "ns/write".to_owned(),
        also: String::new(),
        further: further.into(),
        rows: vec![
            Row {
                what: "ours".to_owned(),
                note: String::new(),
                figure: Spread::of(ours.clone()),
                also: None,
                ratio: Some(Ratio {
                    of: "the kernel, write and event together".to_owned(),
                    spread: Spread::ratio(&ours, &theirs),
                    goal: None,
                }),
            },
            Row {
                what: "kernel".to_owned(),
                note: String::new(),
                figure: Spread::of(theirs),
                also: None,
                ratio: None,
            },
        ],
    })
}
