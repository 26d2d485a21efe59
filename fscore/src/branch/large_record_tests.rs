//! A base is as large as the lower directory, and so are its records. The disk stands still in the
//! middle of one here, until the test lets it go on.

use std::fs;
use std::io::IoSlice;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fd::BorrowedFd;

use super::fs::FsCore;
use super::store::Store;
use crate::disk::DiskFile;
use crate::disk::directory::{Directory, NamedFile};
use crate::disk::simulated::SimulatedDisk;
use crate::log::{Boot, Sizes};
use crate::model::caller::Caller;
use crate::model::config::{FsConfig, Overlay};
use crate::model::errno::{Errno, Result};

const DEADLINE: Duration = Duration::from_secs(60);
/// From how many bytes on a write is one of a base.
const LARGE: usize = 20_000;

/// Stops each large write to the log until the test says how it goes on.
#[derive(Debug)]
struct Gate {
    begun: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

#[derive(Debug)]
struct GatedDirectory {
    inner: SimulatedDisk,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn NamedFile>,
    /// None for a file that is no part of the log.
    gate: Option<Arc<Gate>>,
}

impl GatedDirectory {
    fn gated(&self, name: &str, inner: Arc<dyn NamedFile>) -> Arc<dyn NamedFile> {
        let gate = name.contains("log").then(|| self.gate.clone());
        Arc::new(GatedFile { inner, gate })
    }
}

impl Directory for GatedDirectory {
    fn open(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        self.inner.open(name).map(|file| self.gated(name, file))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        self.inner.create(name).map(|file| self.gated(name, file))
    }

    fn list(&self) -> Result<Vec<String>> {
        self.inner.list()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.inner.remove(name)
    }

    fn sync_names(&self) -> Result<()> {
        self.inner.sync_names()
    }

    fn lock(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        self.inner.lock(name).map(|file| self.gated(name, file))
    }
}

impl DiskFile for GatedFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        self.inner.read_at(buffer, at)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if let Some(gate) = self.gate.as_ref().filter(|_| len > LARGE) {
            gate.begun.send(()).expect("the test is there");
            let go_on = gate.go_on.lock().recv_timeout(DEADLINE);
            go_on.map_err(|_| Errno::EIO)?;
        }
        self.inner.write_at(parts, at)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.inner.punch(range)
    }

    fn copy_from(&self, host: BorrowedFd<'_>, from: Range<u64>, at: u64) -> Result<u64> {
        self.inner.copy_from(host, from, at)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
}

impl NamedFile for GatedFile {
    fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.inner.set_len(len)
    }

    fn allocate(&self, range: Range<u64>) -> Result<()> {
        self.inner.allocate(range)
    }
}

#[test]
fn nothing_waits_for_the_registry_while_a_base_is_written() {
    let host = tempfile::tempdir().unwrap();
    for number in 0..400 {
        let name = format!("{number}{}", "x".repeat(240));
        fs::write(host.path().join(name), b"x").unwrap();
    }
    let (sender, begun) = channel();
    let (go_on, receiver) = channel();
    let directory = GatedDirectory {
        inner: SimulatedDisk::new(1),
        gate: Arc::new(Gate {
            begun: sender,
            go_on: Mutex::new(receiver),
        }),
    };
    let store = Store::open_in(
        Path::new("/store"),
        Arc::new(directory),
        Boot(None),
        Sizes::default(),
    );
    let config = FsConfig {
        overlay: Some(Overlay {
            lower: host.path().to_owned(),
        }),
        ..FsConfig::default()
    };
    let core = FsCore::in_store(config, Some(store.unwrap())).unwrap();
    let root = Caller::root();
    thread::scope(|scope| {
        let making = scope.spawn(|| {
            let never = AtomicBool::new(false);
            core.branch_create_frozen(&root, FsCore::MAIN, "frozen", &never)
        });
        begun.recv_timeout(DEADLINE).expect("a record begins");
        let (sender, seen) = channel();
        let other = core.clone();
        scope.spawn(move || {
            let branch = other.branch(FsCore::MAIN).unwrap();
            let listed = branch.list(&Caller::root(), "/").unwrap().len();
            let names = (other.branch_named("frozen"), other.snapshot_named("none"));
            sender
                .send((listed, other.branches().len(), names))
                .unwrap();
        });
        let seen = seen.recv_timeout(DEADLINE);
        // Whatever was seen, the thread that makes the branch can end.
        for _ in 0..1000 {
            go_on.send(()).unwrap();
        }
        assert_eq!(seen, Ok((400, 1, (None, None))));
        let made = making.join().unwrap().unwrap();
        assert_eq!(core.branch_named("frozen"), Some(made));
    });
}
