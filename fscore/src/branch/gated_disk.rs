//! The disk of a store that stands still at each copy of a host's bytes, until a test lets it go on.

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
use crate::log::{Boot, Sizes};
use crate::model::config::{FsConfig, Overlay};
use crate::model::errno::{Errno, Result};

const DEADLINE: Duration = Duration::from_secs(60);

/// What a test has of the disk.
pub(super) struct Copies {
    pub(super) begun: Receiver<()>,
    go_on: Sender<()>,
}

impl Copies {
    /// Waits until a copy has begun.
    pub(super) fn wait(&self) {
        self.begun.recv_timeout(DEADLINE).expect("a copy begins");
    }

    /// Lets so many copies go on.
    pub(super) fn go_on(&self, copies: usize) {
        for _ in 0..copies {
            self.go_on.send(()).unwrap();
        }
    }
}

/// Creates a filesystem over a directory, in a store in another directory.
pub(super) fn filesystem(host: &Path, store: &Path) -> (FsCore, Copies) {
    let (sender, begun) = channel();
    let (go_on, receiver) = channel();
    let directory = GatedDirectory {
        inner: HostDirectory::open(store).unwrap(),
        gate: Arc::new(Gate {
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
    (fs, Copies { begun, go_on })
}

/// Stops each copy until the test says how it goes on.
#[derive(Debug)]
struct Gate {
    begun: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

/// The directory of a store whose content file waits at a gate.
#[derive(Debug)]
struct GatedDirectory {
    inner: HostDirectory,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn NamedFile>,
    gate: Arc<Gate>,
}

impl GatedDirectory {
    fn gated(&self, inner: Arc<dyn NamedFile>) -> Arc<dyn NamedFile> {
        let gate = self.gate.clone();
        Arc::new(GatedFile { inner, gate })
    }
}

impl Directory for GatedDirectory {
    fn open(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        self.inner.open(name).map(|file| self.gated(file))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn NamedFile>> {
        self.inner.create(name).map(|file| self.gated(file))
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
        self.inner.lock(name).map(|file| self.gated(file))
    }
}

impl DiskFile for GatedFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        self.inner.read_at(buffer, at)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> Result<()> {
        self.inner.write_at(parts, at)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.inner.punch(range)
    }

    fn copy_from(&self, host: BorrowedFd<'_>, from: Range<u64>, at: u64) -> Result<u64> {
        self.gate.begun.send(()).expect("the test is there");
        let go_on = self.gate.go_on.lock().recv_timeout(DEADLINE);
        go_on.map_err(|_| Errno::EIO)?;
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
