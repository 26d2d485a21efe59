//! Content of the host's files is brought up while the branch is not locked. The store's disk stands
//! still in the middle of a copy here, until the test lets it go on.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::thread;

use super::Branch;
use super::fs::FsCore;
use super::gated_disk::{Stops, filesystem};
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::flags::{AllocateFlags, OpenFlags};

/// Where the second of the two ranges of a large file begins that are no hole.
const FAR: u64 = 3 << 30;

/// A filesystem over a host's directory with the file `large`, in a store that waits at each copy.
struct World {
    fs: FsCore,
    host: tempfile::TempDir,
    _store: tempfile::TempDir,
    copies: Stops,
}

impl World {
    fn new() -> Self {
        let (host, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let large = fs::File::create(host.path().join("large")).unwrap();
        large.write_all_at(b"near", 0).unwrap();
        large.write_all_at(b"far", FAR).unwrap();
        fs::write(host.path().join("other"), "other").unwrap();
        let (fs, copies) = filesystem(host.path(), store.path());
        Self {
            fs,
            host,
            _store: store,
            copies,
        }
    }

    fn branch(&self) -> Branch {
        self.fs.branch(FsCore::MAIN).unwrap()
    }

    fn below(&self, name: &str) -> PathBuf {
        self.host.path().join(name)
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
        w.copies.wait();
        others_go_on(&w);
        w.copies.go_on(2);
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
    w.copies.wait();
    let second = thread::spawn(move || write(&other, 1, b"2"));
    w.copies.go_on(2);
    assert_eq!(first.join().unwrap(), Ok(1));
    assert_eq!(second.join().unwrap(), Ok(1));
    assert_eq!(read(&w.branch(), "/large", 0, 4), b"12ar");
    assert_eq!(
        w.copies.begun.try_iter().count(),
        1,
        "the second range of one copy"
    );
}

#[test]
fn a_file_that_the_host_changes_meanwhile_is_looked_at_again() {
    let w = World::new();
    let branch = w.branch();
    let cut = thread::spawn(move || branch.truncate(&Caller::root(), "/large", 5));
    w.copies.wait();
    fs::write(w.below("new"), "replaced").unwrap();
    fs::rename(w.below("new"), w.below("large")).unwrap();
    w.copies.go_on(2);
    assert_eq!(cut.join().unwrap(), Ok(()));
    assert_eq!(read(&w.branch(), "/large", 0, 10), b"repla");

    let w = World::new();
    let branch = w.branch();
    let part = thread::spawn(move || write(&branch, 0, b"N"));
    w.copies.wait();
    fs::write(w.below("large"), "written in place").unwrap();
    w.copies.go_on(2);
    assert_eq!(part.join().unwrap(), Err(Errno::ESTALE));
    assert_eq!(read(&w.branch(), "/large", 0, 20), b"written in place");
}
