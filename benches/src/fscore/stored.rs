//! The filesystem in a store on disk: what that costs beside memory, how soon it is back after its
//! process was killed, and what it takes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use agentfs_core::{BackstoreMode, FsConfig, FsCore, OpenFlags, RenameFlags};
use tempfile::TempDir;

use super::Size;
use super::operations::{Ours, names, round};
use super::race::{Race, Rounds, nanos_each};
use super::report::TreeSizes;
use super::tree_size::{branching_of, fill, resident};
use crate::goal::Goal;
use crate::report::Grid;
use crate::statistics::{Spread, float};

/// Bytes of a large write.
const LARGE: usize = 1 << 20;
/// Large writes of a file.
const LARGE_WRITES: u64 = 64;
const PAGE: usize = 4096;

/// What was measured of a store on disk.
#[derive(Debug, serde::Serialize)]
pub(super) struct Stored {
    /// Against memory.
    races: Vec<Race>,
    /// Large writes against another way, and how many times that time they may take.
    large: Vec<(Race, f64)>,
    tree_sizes: Vec<TreeSizes>,
    tree: Tree,
    resident: Resident,
}

/// A store with many files.
#[derive(Debug, serde::Serialize)]
struct Tree {
    files: u32,
    /// Seconds for opening the store of a killed process.
    from_log: f64,
    /// Seconds for writing a checkpoint.
    checkpoint: f64,
    /// Seconds for opening the store after it.
    from_checkpoint: f64,
    /// Bytes for each file, of the log that made it and of the checkpoint.
    log: f64,
    checkpointed: f64,
    /// Bytes that the store takes on disk for a file of 100 bytes, beside its record.
    small_content: f64,
}

/// How much memory a process takes that writes much.
#[derive(Debug, serde::Serialize)]
struct Resident {
    mebibytes: u64,
    /// MiB by which the resident set has grown.
    grown: f64,
}

/// A filesystem in a store that is removed with it.
struct OnDisk {
    ours: Ours,
    dir: TempDir,
}

impl OnDisk {
    fn new() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let ours = Ours::with(config(&dir))?;
        Ok(Self { ours, dir })
    }
}

fn config(dir: &TempDir) -> FsConfig {
    FsConfig {
        backstore: BackstoreMode::Disk(dir.path().to_owned()),
        ..FsConfig::default()
    }
}

pub(super) fn measure(size: Size) -> io::Result<Stored> {
    Ok(Stored {
        resident: written_much(size)?,
        tree: tree(size)?,
        tree_sizes: branching(size)?,
        races: against_memory(size)?,
        large: large_writes(size)?,
    })
}

/// Measures what a store adds to operations.
fn against_memory(size: Size) -> io::Result<Vec<Race>> {
    let names = names(size);
    let what = [
        "create",
        "stat",
        "rename",
        "unlink",
        "write 4 KiB",
        "append 100 bytes",
    ];
    let mut rounds = Rounds::new(&what);
    for _ in 0..size.rounds {
        let (stored, memory) = (OnDisk::new()?, Ours::new(true)?);
        let both = [&stored.ours, &memory];
        rounds.begin();
        let mut run = |act: &mut dyn FnMut(&Ours, &str) -> io::Result<()>| -> io::Result<()> {
            let [one, two] = both;
            let act = std::cell::RefCell::new(act);
            rounds.push(round(
                &names,
                |name| act.borrow_mut()(one, name),
                |name| act.borrow_mut()(two, name),
            )?);
            Ok(())
        };
        run(&mut Ours::create)?;
        run(&mut |it, name| {
            let found = it.branch.lookup(&it.caller, it.dir, name.as_bytes());
            Ok(found.map(drop)?)
        })?;
        run(&mut |it, name| {
            let to = format!("moved-{name}");
            let (from, to, flags) = (name.as_bytes(), to.as_bytes(), RenameFlags::REPLACE);
            Ok(it
                .branch
                .rename_at(&it.caller, it.dir, from, it.dir, to, flags)?)
        })?;
        run(&mut |it, name| {
            let name = format!("moved-{name}");
            Ok(it.branch.unlink_at(&it.caller, it.dir, name.as_bytes())?)
        })?;
        for (file, flags, len) in [
            ("pages", OpenFlags::READ_WRITE, PAGE),
            ("log", OpenFlags::WRITE_ONLY | OpenFlags::APPEND, 100),
        ] {
            let [one, two] = both.map(|it| it.open(file, flags));
            let (one, two, data) = (one?, two?, vec![7; len]);
            let write = |ours: &Ours, handle| {
                let written = ours.branch.write(&ours.caller, handle, &data);
                Ok(written.map(drop)?)
            };
            rounds.push(round(
                &names,
                |_| write(&stored.ours, one),
                |_| write(&memory, two),
            )?);
        }
    }
    Ok(rounds.races())
}

/// Writes a file in large pieces to a store, to memory, to pages of the heap one by one, which is how
/// branches kept their content before there was a store, and to a bare file beside the store.
fn large_writes(size: Size) -> io::Result<Vec<(Race, f64)>> {
    let data = vec![7; LARGE];
    let pieces: Vec<String> = (0..LARGE_WRITES).map(|_| String::new()).collect();
    let [mut by_heap, mut memory_by_heap, mut by_file] = [const { Vec::new() }; 3];
    for _ in 0..size.rounds {
        let (stored, memory) = (OnDisk::new()?, Ours::new(true)?);
        let bare = File::create(stored.dir.path().join("bare"))?;
        let one = stored.ours.open("large", OpenFlags::READ_WRITE)?;
        let two = memory.open("large", OpenFlags::READ_WRITE)?;
        let write = |ours: &Ours, handle| {
            let written = ours.branch.write(&ours.caller, handle, &data);
            Ok(written.map(drop)?)
        };
        let mut heap: Vec<Box<[u8]>> = Vec::new();
        let (disk, pages) = round(
            &pieces,
            |_| write(&stored.ours, one),
            |_| {
                heap.extend(data.chunks(PAGE).map(Box::from));
                Ok(())
            },
        )?;
        let mut at = 0;
        let (memory, file) = round(
            &pieces,
            |_| write(&memory, two),
            |_| {
                at += LARGE as u64;
                bare.write_all_at(&data, at)
            },
        )?;
        by_heap.push((disk, pages));
        memory_by_heap.push((memory, pages));
        by_file.push((disk, file));
    }
    Ok(vec![
        (
            Race::of("write 1 MiB, store against heap pages", &by_heap),
            1.0,
        ),
        (
            Race::of("write 1 MiB, memory against heap pages", &memory_by_heap),
            1.0,
        ),
        (
            Race::of("write 1 MiB, store against a bare file", &by_file),
            1.2,
        ),
    ])
}

/// Measures snapshots and branches of a small and of a large tree in stores.
fn branching(size: Size) -> io::Result<Vec<TreeSizes>> {
    let sizes = size.files.iter().filter(|_| size.rounds > 0);
    let stores = sizes
        .map(|files| {
            let mut stored = OnDisk::new()?;
            fill(&mut stored.ours, *files)?;
            Ok(stored)
        })
        .collect::<io::Result<Vec<_>>>()?;
    let trees: Vec<&Ours> = stores.iter().map(|it| &it.ours).collect();
    branching_of(size, &trees, "in a store, ")
}

/// Measures a store with many files: how soon it is open again, and what it takes.
fn tree(size: Size) -> io::Result<Tree> {
    let files = size.files[1];
    let mut tree = Tree {
        files,
        from_log: f64::NAN,
        checkpoint: f64::NAN,
        from_checkpoint: f64::NAN,
        log: f64::NAN,
        checkpointed: f64::NAN,
        small_content: f64::NAN,
    };
    if size.rounds == 0 {
        return Ok(tree);
    }
    let per_file = |bytes: u64| float(bytes) / f64::from(files);
    let OnDisk { mut ours, dir } = OnDisk::new()?;
    fill(&mut ours, files)?;
    ours.fs.sync()?;
    tree.log = per_file(size_of(&dir, "log-")?);
    drop(ours);
    let opened = || FsCore::new(config(&dir)).map_err(io::Error::other);
    let (seconds, fs) = timed(opened)?;
    tree.from_log = seconds;
    (tree.checkpoint, ()) = timed(|| Ok(fs.checkpoint()?))?;
    tree.checkpointed = per_file(size_of(&dir, "checkpoint-")?);
    drop(fs);
    let (seconds, fs) = timed(opened)?;
    tree.from_checkpoint = seconds;
    let stat = fs.branch(FsCore::MAIN)?.statfs();
    if stat.files - stat.files_free <= u64::from(files) {
        return Err(io::Error::other("the store has lost its files"));
    }
    drop(fs);
    tree.small_content = small_content(size)?;
    Ok(tree)
}

/// Returns the bytes on disk that the content of a file of 100 bytes takes.
fn small_content(size: Size) -> io::Result<f64> {
    let OnDisk { ours, dir } = OnDisk::new()?;
    for number in 0..size.operations {
        let handle = ours.open(&format!("small-{number}"), OpenFlags::WRITE_ONLY)?;
        ours.branch.write(&ours.caller, handle, &[7; 100])?;
        ours.branch.close(&ours.caller, handle)?;
    }
    ours.fs.sync()?;
    Ok(float(size_of(&dir, "content")?) / f64::from(size.operations))
}

/// Returns the bytes on disk of the files in a store whose names begin so.
fn size_of(dir: &TempDir, prefix: &str) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir.path())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            bytes += entry.metadata()?.blocks() * 512;
        }
    }
    Ok(bytes)
}

fn timed<T>(run: impl FnOnce() -> io::Result<T>) -> io::Result<(f64, T)> {
    let mut result = Err(io::ErrorKind::Other.into());
    let nanos = nanos_each(1, || result = run());
    Ok((nanos / 1e9, result?))
}

/// Measures how the resident set grows while much is written to a branch in a store.
fn written_much(size: Size) -> io::Result<Resident> {
    let mebibytes = u64::from(size.mebibytes);
    if size.rounds == 0 {
        return Ok(Resident {
            mebibytes,
            grown: f64::NAN,
        });
    }
    let stored = OnDisk::new()?;
    let (ours, data) = (&stored.ours, vec![7; LARGE]);
    let before = resident()?;
    let handle = ours.open("large", OpenFlags::READ_WRITE)?;
    for _ in 0..mebibytes {
        ours.branch.write(&ours.caller, handle, &data)?;
    }
    let grown = resident()?.saturating_sub(before);
    Ok(Resident {
        mebibytes,
        grown: float(grown as u64) / float(1 << 20),
    })
}

impl Stored {
    /// Returns what was to be reached.
    pub(super) fn goals(&self) -> Vec<Goal> {
        let one = |figure: f64| Spread::of(vec![figure]);
        let mut goals = Vec::new();
        for race in &self.races {
            let what = format!("in a store, {}", race.what);
            goals.push(Goal::at_most(1.2, "of memory", what, race.ratio));
        }
        for (race, most) in &self.large {
            goals.push(Goal::at_most(
                *most,
                "of the other",
                &*race.what,
                race.ratio,
            ));
        }
        for it in &self.tree_sizes {
            let what = format!("{}, {} files", it.what, it.files[1]);
            goals.push(Goal::at_most(50_000.0, "ns", what, it.nanos[1]));
        }
        let tree = &self.tree;
        for (how, seconds) in [
            ("the log", tree.from_log),
            ("a checkpoint", tree.from_checkpoint),
        ] {
            let what = format!("recovery of {} files from {how}", tree.files);
            goals.push(Goal::at_most(3.0, "s", what, one(seconds)));
        }
        for (of, most, bytes) in [
            ("log of an empty file", 300.0, tree.log),
            ("checkpoint of an empty file", 200.0, tree.checkpointed),
            ("content of a file of 100 bytes", 300.0, tree.small_content),
        ] {
            let what = format!("store, {of}");
            goals.push(Goal::at_most(most, "bytes", what, one(bytes)));
        }
        let Resident { mebibytes, grown } = self.resident;
        let what = format!("resident set after {mebibytes} MiB were written");
        goals.push(Goal::at_most(300.0, "MiB more", what, one(grown)));
        goals
    }

    /// Returns the table.
    pub(super) fn grid(&self) -> Grid {
        let head = ["what", "median (min to max)", "goal"];
        let mut grid = Grid::new("In a store on disk", &head);
        let nanos = self.races.iter().chain(self.large.iter().map(|it| &it.0));
        let nanos: Vec<(f64, f64)> = nanos
            .map(|race| (race.ours.median, race.theirs.median))
            .collect();
        for (index, goal) in self.goals().into_iter().enumerate() {
            let beside = nanos.get(index).map_or_else(String::new, |(ours, theirs)| {
                format!(" ({ours:.0} ns against {theirs:.0} ns)")
            });
            let measured = format!("{}{beside}", goal.figure());
            grid.rows
                .push(vec![goal.what.clone(), measured, goal.verdict()]);
        }
        let seconds = format!("{:.2} s", self.tree.checkpoint);
        let what = format!("checkpoint of {} files", self.tree.files);
        grid.rows.push(vec![what, seconds, String::new()]);
        grid.goals = self.goals();
        grid
    }
}
