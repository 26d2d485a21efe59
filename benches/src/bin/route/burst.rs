//! 100,000 events at once, with a reader that sleeps and with one that does not, beside the kernel.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_benches::Spread;
use agentfs_benches::goal::Goal;
use agentfs_benches::table::{Ratio, Row, Table};
use agentfs_core::OpenFlags;
use agentfs_daemon::Api;
use agentfs_daemon::synth::inotify::{IN_CREATE, IN_MODIFY};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::fs::{FileType, Mode, OFlags, mknodat};

use crate::rig::{Rig, per};
use crate::{Effort, Failure};

const EVENTS: usize = 100_000;
const FILE_MODE: u32 = 0o100_644;

/// What a burst cost and gave.
#[derive(Debug, Default)]
struct Burst {
    /// Nanoseconds of an operation.
    each: f64,
    /// Milliseconds until the last record was read, from the end of the burst on.
    read_ms: f64,
    records: usize,
    doorbells: u64,
}

/// Who reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    Sleeper,
    Awake,
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

/// New files in one directory of a fresh FsCore.
fn ours(who: Who, ring: usize, names: &[String]) -> Result<Burst, Failure> {
    let rig = Rig::new(who != Who::Nobody)?;
    let dir = rig.branch.mkdir(&rig.caller, "/d", 0o755)?.node;
    let reader = rig.open(Api::Inotify, ring)?;
    if who != Who::Nobody {
        rig.watch(&reader, 1, dir, IN_CREATE)?;
    }
    reader.arm()?;
    let done = AtomicBool::new(false);
    let create = || {
        per(names.len(), || {
            for name in names {
                rig.branch
                    .mknod_at(&rig.caller, dir, name.as_bytes(), FILE_MODE, 0)?;
            }
            Ok(())
        })
    };
    let mut early = 0;
    let mut each = 0.0;
    std::thread::scope(|scope| -> Result<(), Failure> {
        let awake = (who == Who::Awake).then(|| {
            scope.spawn(|| {
                let mut records = 0;
                while !done.load(Ordering::Acquire) {
                    // An error shows in the number of records.
                    let read = reader.drain(&rig.service).unwrap_or(0);
                    records += read;
                    if read == 0 {
                        pause();
                    }
                }
                records
            })
        });
        let created = create();
        done.store(true, Ordering::Release);
        if let Some(awake) = awake {
            early = awake.join().map_err(|_| "the reader panicked")?;
        }
        (each, ()) = created?;
        Ok(())
    })?;
    let (read_ns, late) = per(1, || reader.drain(&rig.service))?;
    Ok(Burst {
        each,
        read_ms: read_ns / 1e6,
        records: early + late,
        doorbells: rig.service.counts().doorbells,
    })
}

/// The same system calls on a directory of a tmpfs.
fn kernel(who: Who, top: &Path, names: &[String]) -> Result<Burst, Failure> {
    let dir = tempfile::tempdir_in(top)?;
    let fd = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty())?;
    let instance = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    if who != Who::Nobody {
        add_watch(&instance, dir.path(), WatchFlags::CREATE)?;
    }
    let done = AtomicBool::new(false);
    let (mut early, mut each) = (0, 0.0);
    std::thread::scope(|scope| -> Result<(), Failure> {
        let awake = (who == Who::Awake).then(|| {
            scope.spawn(|| {
                let mut records = 0;
                while !done.load(Ordering::Acquire) {
                    let read = read_all(&instance);
                    records += read;
                    if read == 0 {
                        pause();
                    }
                }
                records
            })
        });
        let created = per(names.len(), || {
            for name in names {
                mknodat(&fd, name.as_str(), FileType::RegularFile, Mode::RUSR, 0)?;
            }
            Ok(())
        });
        done.store(true, Ordering::Release);
        if let Some(awake) = awake {
            early = awake.join().map_err(|_| "the reader panicked")?;
        }
        (each, ()) = created?;
        Ok(())
    })?;
    let (read_ns, late) = per(1, || Ok(read_all(&instance)))?;
    Ok(Burst {
        each,
        read_ms: read_ns / 1e6,
        records: early + late,
        doorbells: 0,
    })
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
    what: String,
    each: Vec<f64>,
    read: Vec<f64>,
    records: Vec<f64>,
    doorbells: Vec<f64>,
}

impl Case {
    fn new(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            each: Vec::new(),
            read: Vec::new(),
            records: Vec::new(),
            doorbells: Vec::new(),
        }
    }

    fn add(&mut self, burst: &Burst) {
        self.each.push(burst.each);
        self.read.push(burst.read_ms);
        self.records.push(float(burst.records as u64));
        self.doorbells.push(float(burst.doorbells));
    }

    /// Nanoseconds to read a record of those that were left.
    fn of_each(&self) -> Vec<f64> {
        let rounds = self.read.iter().zip(&self.records);
        rounds
            .map(|(ms, records)| ms * 1e6 / records.max(1.0))
            .collect()
    }

    fn lost(&self) -> Spread {
        let all = float(EVENTS as u64);
        Spread::of(self.records.iter().map(|it| all - it).collect())
    }
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
    let mut cases: Vec<Case> = [
        "ours, nobody watches",
        "ours, sleeping reader, ring of 64 KiB",
        "ours, sleeping reader, ring of 16 MiB",
        "ours, awake reader, ring of 64 KiB",
        "kernel, nobody watches",
        "kernel, sleeping reader",
        "kernel, awake reader",
    ]
    .map(Case::new)
    .into();
    for _ in 0..effort.rounds {
        let bursts = [
            ours(Who::Nobody, DEFAULT, &names)?,
            ours(Who::Sleeper, DEFAULT, &names)?,
            ours(Who::Sleeper, LARGE, &names)?,
            ours(Who::Awake, DEFAULT, &names)?,
            kernel(Who::Nobody, top.path(), &names)?,
            kernel(Who::Sleeper, top.path(), &names)?,
            kernel(Who::Awake, top.path(), &names)?,
        ];
        for (case, burst) in cases.iter_mut().zip(&bursts) {
            case.add(burst);
        }
    }
    Ok(vec![files(&cases), reading(&cases), one_file(effort)?])
}

/// What a record costs that is there to be read.
fn reading(cases: &[Case]) -> Table {
    let theirs = cases[5].of_each();
    let row = |at: usize, goal| {
        let figures = cases[at].of_each();
        Row {
            what: cases[at].what.clone(),
            note: format!(": {} records", median(&cases[at].records)),
            figure: Spread::of(figures.clone()),
            also: None,
            ratio: (at != 5).then(|| Ratio {
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
        rows: vec![row(5, None), row(1, None), row(2, Some(0.1))],
    }
}

/// What each case with a reader adds to the one without, beside what the kernel's adds.
fn files(cases: &[Case]) -> Table {
    let added = |at: usize, bare: usize| -> Vec<f64> {
        cases[at]
            .each
            .iter()
            .zip(&cases[bare].each)
            .map(|(all, bare)| (all - bare).max(1.0))
            .collect()
    };
    let row = |at: usize| {
        let case = &cases[at];
        let watched = !matches!(at, 0 | 4);
        let note = if watched {
            let (records, doorbells) = (median(&case.records), median(&case.doorbells));
            let lost = case.lost().median;
            format!(": {records} records, {lost} lost, {doorbells} wake-ups")
        } else {
            String::new()
        };
        let ratio = match at {
            1 | 2 => Some((added(at, 0), added(5, 4))),
            3 => Some((added(3, 0), added(6, 4))),
            _ => None,
        };
        Row {
            what: case.what.clone(),
            note,
            figure: Spread::of(case.each.clone()),
            also: watched.then(|| Spread::of(case.read.clone())),
            ratio: ratio.map(|(ours, theirs)| Ratio {
                of: "the kernel's added cost".to_owned(),
                spread: Spread::ratio(&ours, &theirs),
                goal: Some(0.2),
            }),
        }
    };
    let further = [1, 2, 3].map(|at| {
        let what = format!("lost: {}", cases[at].what);
        Goal::at_most(0.0, "events", what, cases[at].lost())
    });
    Table {
        title: "100,000 new files in a watched directory".to_owned(),
        unit: "ns/file".to_owned(),
        also: "ms to read the rest".to_owned(),
        further: further.into(),
        rows: (0..cases.len()).map(row).collect(),
    }
}

/// 100,000 writes to one file while the reader sleeps.
fn one_file(effort: Effort) -> Result<Table, Failure> {
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    let mut ours = Case::new("ours");
    let mut theirs = Case::new("kernel");
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
        ours.add(&Burst {
            each,
            read_ms: 0.0,
            records,
            doorbells: rig.service.counts().doorbells,
        });

        let instance = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let file = std::fs::File::create(&path)?;
        add_watch(&instance, &path, WatchFlags::MODIFY)?;
        let (each, ()) = per(EVENTS, || {
            for _ in 0..EVENTS {
                rustix::io::pwrite(&file, b"x", 0)?;
            }
            Ok(())
        })?;
        theirs.add(&Burst {
            each,
            ..Burst::default()
        });
    }
    let further = [("records", &ours.records), ("wake-ups", &ours.doorbells)];
    let further = further.map(|(of, counts)| {
        let what = "100,000 writes to one watched file, the reader sleeps";
        Goal::at_most(1.0, of, what, Spread::of(counts.clone()))
    });
    Ok(Table {
        title: "100,000 writes to one watched file, the reader sleeps".to_owned(),
        unit: "ns/write".to_owned(),
        also: String::new(),
        further: further.into(),
        rows: vec![
            Row {
                what: ours.what.clone(),
                note: String::new(),
                figure: Spread::of(ours.each.clone()),
                also: None,
                ratio: Some(Ratio {
                    of: "the kernel, write and event together".to_owned(),
                    spread: Spread::ratio(&ours.each, &theirs.each),
                    goal: None,
                }),
            },
            Row {
                what: theirs.what.clone(),
                note: String::new(),
                figure: Spread::of(theirs.each.clone()),
                also: None,
                ratio: None,
            },
        ],
    })
}
