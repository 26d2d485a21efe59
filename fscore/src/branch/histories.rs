//! Random histories of a filesystem on a simulated disk that is killed, loses its power, fills up
//! and fails: what is there afterwards is what docs/store-format.md promises.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentfs_testkit::random::Random;

use super::Branch;
use super::fs::FsCore;
use super::store::Store;
use crate::disk::simulated::{Fault, SimulatedDisk};
use crate::log::{Boot, Sizes};
use crate::model::caller::Caller;
use crate::model::config::FsConfig;
use crate::model::errno::{Errno, Result};
use crate::model::flags::{OpenFlags, RenameFlags, XattrFlags};
use crate::model::id::SnapshotId;

/// An attribute that makes records long.
const LONG: &[u8] = b"user.long";

/// What the branch shows: the mode of each object, and the bytes of a file and of its attribute.
type Shown = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// So small that records are split and segments grow now and then.
const SIZES: Sizes = Sizes {
    room: 2000,
    step: 16_384,
    spare: 8192,
    ample: 4096,
};

/// A machine with one store.
pub(super) struct Machine {
    pub(super) disk: SimulatedDisk,
    boot: u128,
    fs: Option<FsCore>,
}

impl Machine {
    pub(super) fn start(disk: SimulatedDisk) -> Self {
        let mut machine = Self {
            disk,
            boot: 1,
            fs: None,
        };
        machine.open();
        machine
    }

    fn open(&mut self) {
        let boot = Boot(Some(self.boot.to_le_bytes()));
        let directory = Arc::new(self.disk.clone());
        let store = Store::open_in(Path::new("/store"), directory, boot, SIZES);
        let store = store.expect("a store that this program wrote");
        let fs = FsCore::in_store(FsConfig::default(), Some(store));
        self.fs = Some(fs.expect("a store that can be read"));
    }

    pub(super) fn fs(&self) -> &FsCore {
        self.fs.as_ref().expect("it runs")
    }

    pub(super) fn branch(&self) -> Branch {
        self.fs().branch(FsCore::MAIN).expect("the first branch")
    }

    pub(super) fn kill(&mut self) {
        self.fs = None;
        self.disk.kill();
        self.open();
    }

    pub(super) fn cut_power(&mut self) {
        self.fs = None;
        self.disk.cut_power();
        self.boot += 1;
        self.open();
    }

    pub(super) fn shown(&self) -> Shown {
        let (branch, root) = (self.branch(), Caller::root());
        let (mut shown, mut dirs) = (Shown::new(), vec![PathBuf::from("/")]);
        while let Some(dir) = dirs.pop() {
            for entry in branch.list(&root, &dir).expect("a directory") {
                use std::os::unix::ffi::OsStrExt as _;
                let path = dir.join(std::ffi::OsStr::from_bytes(&entry.name));
                let attr = branch.lstat(&root, &path).expect("an object");
                let mut bytes = vec![0; usize::try_from(attr.size).expect("small")];
                if entry.kind.is_dir() {
                    bytes.clear();
                    dirs.push(path.clone());
                } else {
                    let handle = branch.open(&root, &path, OpenFlags::READ, 0);
                    let handle = handle.expect("a file");
                    let read = branch.read_at(&root, handle, 0, &mut bytes);
                    assert_eq!(read, Ok(bytes.len()), "{}", path.display());
                    branch.close(&root, handle).expect("it is open");
                }
                if let Ok(value) = branch.getxattr(&root, &path, false, LONG) {
                    bytes.extend_from_slice(&value);
                }
                shown.insert(path, (attr.mode, bytes));
            }
        }
        shown
    }
}

/// One history: the states that were shown, and the last one that a sync returned for.
struct History {
    machine: Machine,
    random: Random,
    states: Vec<Shown>,
    synced: usize,
    snapshots: Vec<SnapshotId>,
}

impl History {
    fn new(seed: u64) -> Self {
        let machine = Machine::start(SimulatedDisk::new(seed));
        let mut history = Self {
            states: vec![machine.shown()],
            machine,
            random: Random::new(seed),
            synced: 0,
            snapshots: Vec::new(),
        };
        // A store is there once its first sync has returned.
        history.sync();
        history
    }

    fn sync(&mut self) {
        self.machine.fs().sync().expect("a disk that works");
        self.synced = self.states.len() - 1;
    }

    fn name(&mut self) -> String {
        let dir = self.random.pick(&["", "/d", "/e", "/d/f"]);
        format!("{dir}/{}", self.random.pick(&["a", "b", "c"]))
    }

    /// Makes one change, which is one record.
    fn change(&mut self) -> Result<()> {
        let (branch, root) = (self.machine.branch(), Caller::root());
        let (one, two) = (self.name(), self.name());
        let at = self.random.range(0..9000);
        let len = self.random.pick(&[1, 80, 300, 4096, 9000, 30_000]);
        match self.random.range(0..15) {
            0 => branch
                .mkdir(&root, self.random.pick(&["/d", "/e", "/d/f"]), 0o755)
                .map(drop),
            1 => branch.unlink(&root, &one),
            2 => branch.rmdir(&root, self.random.pick(&["/d", "/e", "/d/f"])),
            3 => branch.rename(&root, &one, &two, RenameFlags::REPLACE),
            4 => branch.rename(&root, &one, &two, RenameFlags::EXCHANGE),
            5 => branch.link(&root, &one, &two).map(drop),
            6 => branch.truncate(&root, &one, at),
            7 => {
                let fs = self.machine.fs();
                self.snapshots
                    .push(fs.snapshot_create(&root, FsCore::MAIN, "")?);
                Ok(())
            }
            8 if !self.snapshots.is_empty() => {
                let snapshot = self.random.pick(&self.snapshots.clone());
                self.machine.fs().restore(&root, FsCore::MAIN, snapshot)
            }
            9 => {
                let value = self.random.bytes(len.min(3000));
                branch.setxattr(&root, &one, true, LONG, &value, XattrFlags::ANY)
            }
            _ => {
                let flags = OpenFlags::CREATE | OpenFlags::READ_WRITE;
                let handle = branch.open(&root, &one, flags, 0o644)?;
                // Creating it is a change of its own.
                self.states.push(self.machine.shown());
                let at = if at.is_multiple_of(2) {
                    branch.fstat(handle)?.size
                } else {
                    at
                };
                let data = self.random.bytes(len);
                let written = branch.write_at(&root, handle, at, &data);
                branch.close(&root, handle)?;
                written.map(drop)
            }
        }
    }

    fn step(&mut self) {
        match self.random.range(0..30) {
            0..3 => self.sync(),
            3 => self.machine.fs().checkpoint().expect("a disk that works"),
            4..6 => {
                self.machine.kill();
                self.is_last("a kill");
            }
            6..8 => {
                self.machine.cut_power();
                self.is_one_of_the_last("a power cut");
            }
            8 => self.fill_up(),
            9 => self.fail(),
            _ => {
                // It fails where a name is there or not, and then changes nothing.
                let _result = self.change();
                self.states.push(self.machine.shown());
            }
        }
    }

    /// Lets the disk be full for some changes.
    fn fill_up(&mut self) {
        self.machine.disk.leave_free(self.random.range(0..60_000));
        for _ in 0..10 {
            let before = self.states.len();
            let result = self.change();
            let shown = self.machine.shown();
            if result == Err(Errno::ENOSPC) && self.states.len() == before {
                assert_eq!(Some(&shown), self.states.last(), "nothing is half done");
            }
            self.states.push(shown);
            match self.random.range(0..6) {
                0 | 1 => self.try_to(FsCore::sync),
                2 => self.try_to(FsCore::checkpoint),
                _ => {}
            }
        }
        self.machine.disk.leave_free(u64::MAX);
        if self.random.range(0..2) == 0 {
            self.machine.kill();
            self.is_last("a full disk");
        } else {
            self.machine.cut_power();
            self.is_one_of_the_last("a power cut with a full disk");
        }
    }

    /// Lets the disk fail once. The store takes no changes then, or nothing was lost.
    fn fail(&mut self) {
        let fault = self.random.pick(&[Fault::Error, Fault::Loss]);
        self.machine
            .disk
            .fail_after(self.random.range(0..12), fault);
        for _ in 0..5 {
            let _result = self.change();
            self.states.push(self.machine.shown());
            match self.random.range(0..6) {
                0 | 1 => self.try_to(FsCore::sync),
                2 => self.try_to(FsCore::checkpoint),
                _ => {}
            }
        }
        self.machine.disk.fail_after(u64::MAX >> 1, fault);
        self.machine.cut_power();
        self.is_one_of_the_last("a failure of the disk");
    }

    /// Makes what was done so far survive a power cut, if the disk can.
    fn try_to(&mut self, sync: impl FnOnce(&FsCore) -> Result<()>) {
        if sync(self.machine.fs()).is_ok() {
            self.synced = self.states.len() - 1;
        }
    }

    fn is_last(&mut self, after: &str) {
        let shown = self.machine.shown();
        assert_eq!(Some(&shown), self.states.last(), "after {after}");
        self.keep_snapshots();
    }

    fn is_one_of_the_last(&mut self, after: &str) {
        let shown = self.machine.shown();
        let found = self.states.iter().rposition(|state| *state == shown);
        assert!(
            found >= Some(self.synced),
            "after {after}: {found:?} of {}",
            self.synced
        );
        self.states.truncate(found.map_or(0, |found| found + 1));
        self.synced = self.states.len() - 1;
        self.keep_snapshots();
    }

    fn keep_snapshots(&mut self) {
        self.snapshots = self
            .machine
            .fs()
            .snapshots()
            .iter()
            .map(|it| it.id)
            .collect();
    }
}

/// How many histories run: `AGENTFS_STORE_HISTORIES`, or so many.
const HISTORIES: u64 = 10_000;

#[test]
fn what_is_there_afterwards_is_what_is_promised() {
    let count = std::env::var("AGENTFS_STORE_HISTORIES").ok();
    let count = count.and_then(|it| it.parse().ok()).unwrap_or(HISTORIES);
    let one = std::env::var("AGENTFS_STORE_SEED")
        .ok()
        .and_then(|it| it.parse::<u64>().ok());
    let threads = std::thread::available_parallelism().map_or(1, |it| it.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (0..count).filter(|seed| seed % threads == thread) {
                    if one.is_some_and(|one| one != seed) {
                        continue;
                    }
                    let run = std::panic::catch_unwind(|| {
                        let mut history = History::new(seed);
                        for _ in 0..30 {
                            history.step();
                        }
                    });
                    assert!(run.is_ok(), "run it again with AGENTFS_STORE_SEED={seed}");
                }
            });
        }
    });
}
