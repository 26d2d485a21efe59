//! The disk of a store that stands still in the middle of something, until a test lets it go on.

use std::io::IoSlice;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fd::BorrowedFd;

use super::fs::FsCore;
use super::store::Store;
use crate::disk::DiskFile;
use crate::disk::directory::{Directory, NamedFile};
use crate::disk::host_directory::HostDirectory;
use crate::disk::simulated::SimulatedDisk;
use crate::log::{Boot, Sizes};
use crate::model::config::{FsConfig, Overlay};
use crate::model::errno::{Errno, Result};

pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// Where the disk stands still.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// At each copy of a host's bytes.
    Copy,
    /// At each write to the log that is as long as one of a base.
    LongRecord,
}

/// From how many bytes on a write to the log is one of a base.
const LONG: usize = 20_000;

/// What a test has of the disk.
pub(super) struct Stops {
    pub(super) begun: Receiver<()>,
    go_on: Sender<()>,
}

impl Stops {
    /// Waits until the disk stands still.
    pub(super) fn wait(&self) {
        self.begun.recv_timeout(DEADLINE).expect("it begins");
    }

    /// Lets it go on so many times.
    pub(super) fn go_on(&self, times: usize) {
        for _ in 0..times {
            self.go_on.send(()).unwrap();
        }
    }
}

/// Creates a filesystem over a directory, in a store in another directory that stands still at each copy.
pub(super) fn filesystem(host: &Path, store: &Path) -> (FsCore, Stops) {
    let store = HostDirectory::open(store).unwrap();
    stopping(host, Arc::new(store), At::Copy)
}

/// Creates a filesystem over a directory, in a store that stands still at each long record.
pub(super) fn stopping_at_long_records(host: &Path) -> (FsCore, Stops) {
    stopping(host, Arc::new(SimulatedDisk::new(1)), At::LongRecord)
}

fn stopping(host: &Path, inner: Arc<dyn Directory>, at: At) -> (FsCore, Stops) {
    let (sender, begun) = channel();
    let (go_on, receiver) = channel();
    let directory = GatedDirectory {
        inner,
        gate: Arc::new(Gate {
            at,
            begun: sender,
            go_on: Mutex::new(receiver),
        }),
    };
    let directory = Arc::new(directory);
    let store = Store::open_in(Path::new("/store"), directory, Boot(None), Sizes::default());
    let config = FsConfig {
        overlay: Some(Overlay {
            lower: host.to_owned(),
        }),
        ..FsConfig::default()
    };
    let fs = FsCore::in_store(config, Some(store.unwrap())).unwrap();
    (fs, Stops { begun, go_on })
}

/// Stops the disk until the test says how it goes on.
#[derive(Debug)]
struct Gate {
    at: At,
    begun: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Gate {
    fn pass(&self) -> Result<()> {
        self.begun.send(()).expect("the test is there");
        let go_on = self.go_on.lock().recv_timeout(DEADLINE);
        go_on.map_err(|_| Errno::EIO)
    }
}

/// The directory of a store whose files wait at a gate.
#[derive(Debug)]
struct GatedDirectory {
    inner: Arc<dyn Directory>,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn NamedFile>,
    is_log: bool,
    gate: Arc<Gate>,
}

impl GatedDirectory {
    fn gated(&self, name: &str, inner: Arc<dyn NamedFile>) -> Arc<dyn NamedFile> {
        let (is_log, gate) = (name.contains("log"), self.gate.clone());
        Arc::new(GatedFile {
            inner,
            is_log,
            gate,
        })
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
        if self.is_log && self.gate.at == At::LongRecord && len > LONG {
            self.gate.pass()?;
        }
        self.inner.write_at(parts, at)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.inner.punch(range)
    }

    fn copy_from(&self, host: BorrowedFd<'_>, from: Range<u64>, at: u64) -> Result<u64> {
        if self.gate.at == At::Copy {
            self.gate.pass()?;
        }
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
