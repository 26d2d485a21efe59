//! Content of the host's files is brought up while the branch is not locked. The store's disk stands
//! still in the middle of a copy here, until the test lets it go on.

use std::fs;
use std::io::IoSlice;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fd::BorrowedFd;

use super::Branch;
use super::fs::FsCore;
use super::store::Store;
use crate::disk::DiskFile;
use crate::disk::directory::{Directory, NamedFile};
use crate::disk::host_directory::HostDirectory;
use crate::log::{Boot, Sizes};
use crate::model::caller::Caller;
use crate::model::config::{FsConfig, Overlay};
use crate::model::errno::{Errno, Result};
use crate::model::flags::{AllocateFlags, OpenFlags};

const DEADLINE: Duration = Duration::from_secs(60);
/// Where the second of the two ranges of a large file begins that are no hole.
const FAR: u64 = 3 << 30;

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

/// A filesystem over a host's directory with the file `large`, in a store that waits at each copy.
struct World {
    fs: FsCore,
    host: tempfile::TempDir,
    _store: tempfile::TempDir,
    begun: Receiver<()>,
    go_on: Sender<()>,
}

impl World {
    fn new() -> Self {
        let (host, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let large = fs::File::create(host.path().join("large")).unwrap();
        large.write_all_at(b"near", 0).unwrap();
        large.write_all_at(b"far", FAR).unwrap();
        fs::write(host.path().join("other"), "other").unwrap();
        let (sender, begun) = channel();
        let (go_on, receiver) = channel();
        let directory = GatedDirectory {
            inner: HostDirectory::open(store.path()).unwrap(),
            gate: Arc::new(Gate {
                begun: sender,
                go_on: Mutex::new(receiver),
            }),
        };
        let directory = Arc::new(directory);
        let store_in = Store::open_in(Path::new("/store"), directory, Boot(None), Sizes::default());
        let config = FsConfig {
            overlay: Some(Overlay {
                lower: host.path().to_owned(),
            }),
            ..FsConfig::default()
        };
        Self {
            fs: FsCore::in_store(config, Some(store_in.unwrap())).unwrap(),
            host,
            _store: store,
            begun,
            go_on,
        }
    }

    fn branch(&self) -> Branch {
        self.fs.branch(FsCore::MAIN).unwrap()
    }

    fn below(&self, name: &str) -> PathBuf {
        self.host.path().join(name)
    }

    /// Waits until a copy has begun.
    fn wait(&self) {
        self.begun.recv_timeout(DEADLINE).expect("a copy begins");
    }

    fn go_on(&self, copies: usize) {
        for _ in 0..copies {
            self.go_on.send(()).unwrap();
        }
    }
}

fn write(branch: &Branch, at: u64, data: &[u8]) -> Result<usize> {
    let root = Caller::root();
    let handle = branch.open(&root, "/large", OpenFlags::READ_WRITE, 0)?;
    let written = branch.write_at(&root, handle, at, data);
    branch.close(&root, handle)?;
    written
}

fn read(branch: &Branch, path: &str, at: u64, len: usize) -> Vec<u8> {
    let root = Caller::root();
    let handle = branch.open(&root, path, OpenFlags::READ, 0).unwrap();
    let mut buffer = vec![0; len];
    let read = branch.read_at(&root, handle, at, &mut buffer).unwrap();
    branch.close(&root, handle).unwrap();
    buffer.truncate(read);
    buffer
}

/// Does what must not wait for a copy.
fn others_go_on(w: &World) {
    let (branch, root) = (w.branch(), Caller::root());
    assert_eq!(read(&branch, "/large", FAR, 10), b"far");
    branch.mkdir(&root, "/dir", 0o755).unwrap();
    branch.rmdir(&root, "/dir").unwrap();
    w.fs.sync().unwrap();
    w.fs.checkpoint().unwrap();
    let made =
        w.fs.branch_create_from_current(&root, FsCore::MAIN, "apart")
            .unwrap();
    w.fs.branch_delete(made).unwrap();
}

#[test]
fn nothing_waits_while_content_is_brought_up() {
    type Operation = fn(&Branch) -> Result<()>;
    let operations: [(&str, Operation, &[u8]); 5] = [
        ("write", |it| write(it, 0, b"N").map(|_| ()), b"Near"),
        (
            "truncate",
            |it| it.truncate(&Caller::root(), "/large", FAR + 1),
            b"near",
        ),
        (
            "append",
            |it| {
                let (root, flags) = (Caller::root(), OpenFlags::READ_WRITE | OpenFlags::APPEND);
                let handle = it.open(&root, "/large", flags, 0)?;
                it.write(&root, handle, b"end")?;
                it.close(&root, handle)
            },
            b"near",
        ),
        (
            "fallocate",
            |it| {
                let root = Caller::root();
                let handle = it.open(&root, "/large", OpenFlags::READ_WRITE, 0)?;
                let flags = AllocateFlags::PUNCH_HOLE | AllocateFlags::KEEP_SIZE;
                it.fallocate(&root, handle, flags, 1, 2)?;
                it.close(&root, handle)
            },
            b"n\0\0r",
        ),
        (
            "copy_range",
            |it| {
                let root = Caller::root();
                let from = it.open(&root, "/other", OpenFlags::READ, 0)?;
                let to = it.open(&root, "/large", OpenFlags::READ_WRITE, 0)?;
                it.copy_range(&root, (from, 0), (to, 0), 2)?;
                it.close(&root, from)?;
                it.close(&root, to)
            },
            b"otar",
        ),
    ];
    for (name, operation, near) in operations {
        let w = World::new();
        let branch = w.branch();
        let changing = thread::spawn(move || operation(&branch));
        w.wait();
        others_go_on(&w);
        w.go_on(2);
        assert_eq!(changing.join().unwrap(), Ok(()), "{name}");
        // From now on the host cannot change what the branch shows.
        fs::write(w.below("large"), "gone").unwrap();
        assert_eq!(read(&w.branch(), "/large", 0, 4), near, "{name}");
        assert_eq!(read(&w.branch(), "/large", FAR, 1), b"f", "{name}");
    }
}

#[test]
fn two_writers_bring_a_file_up_once() {
    let w = World::new();
    let (one, other) = (w.branch(), w.branch());
    let first = thread::spawn(move || write(&one, 0, b"1"));
    w.wait();
    let second = thread::spawn(move || write(&other, 1, b"2"));
    w.go_on(2);
    assert_eq!(first.join().unwrap(), Ok(1));
    assert_eq!(second.join().unwrap(), Ok(1));
    assert_eq!(read(&w.branch(), "/large", 0, 4), b"12ar");
    assert_eq!(
        w.begun.try_iter().count(),
        1,
        "the second range of one copy"
    );
}

#[test]
fn a_file_that_the_host_changes_meanwhile_is_looked_at_again() {
    let w = World::new();
    let branch = w.branch();
    let cut = thread::spawn(move || branch.truncate(&Caller::root(), "/large", 5));
    w.wait();
    fs::write(w.below("new"), "replaced").unwrap();
    fs::rename(w.below("new"), w.below("large")).unwrap();
    w.go_on(2);
    assert_eq!(cut.join().unwrap(), Ok(()));
    assert_eq!(read(&w.branch(), "/large", 0, 10), b"repla");

    let w = World::new();
    let branch = w.branch();
    let part = thread::spawn(move || write(&branch, 0, b"N"));
    w.wait();
    fs::write(w.below("large"), "written in place").unwrap();
    w.go_on(2);
    assert_eq!(part.join().unwrap(), Err(Errno::ESTALE));
    assert_eq!(read(&w.branch(), "/large", 0, 20), b"written in place");
}
