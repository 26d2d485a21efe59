//! Tests which objects of the lower directory are never opened, because whoever is at the other end
//! would notice.

use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agentfs_core::{Errno, OpenFlags, RenameFlags, XattrFlags};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use rustix::fs::{CWD, FileType, Mode};

use crate::support::World;

/// Notices when an object is opened or closed. Looking at an object does neither.
struct Openings(OwnedFd);

impl Openings {
    fn of(objects: &[PathBuf]) -> Self {
        let fd = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        for object in objects {
            let flags = WatchFlags::OPEN | WatchFlags::CLOSE;
            add_watch(&fd, object, flags).unwrap();
        }
        Self(fd)
    }

    fn heard(&self) -> usize {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.0, &mut buffer);
        let mut heard = 0;
        while reader.next().is_ok() {
            heard += 1;
        }
        heard
    }
}

fn special(path: &Path, kind: FileType, device: u64) -> bool {
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::mknodat(CWD, path, kind, mode, device) {
        // Only root may create a device.
        Err(rustix::io::Errno::PERM) => false,
        made => {
            made.unwrap();
            true
        }
    }
}

/// Creates a FIFO, a socket and, for root, a device with the number of /dev/null, and returns their
/// paths.
fn specials(host: &Path) -> Vec<PathBuf> {
    let null = rustix::fs::makedev(1, 3);
    let kinds = [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("device", FileType::CharacterDevice, null),
    ];
    let made = kinds.iter().filter_map(|(name, kind, device)| {
        let path = host.join(name);
        special(&path, *kind, *device).then_some(path)
    });
    made.collect()
}

#[test]
fn fifos_sockets_and_devices_are_looked_at_and_not_opened() {
    let host = tempfile::tempdir().unwrap();
    let all = specials(host.path());
    let w = World::over(host.path());
    let openings = Openings::of(&all);
    let names: Vec<String> = all
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(w.names("/").len(), names.len());
    for name in &names {
        let path = format!("/{name}");
        w.b.lstat(&w.root, &path).unwrap();
        assert_eq!(w.b.listxattr(&w.root, &path, false), Ok(Vec::new()));
        let none = w.b.getxattr(&w.root, &path, false, b"user.a");
        assert_eq!(none, Err(Errno::ENODATA));
        let flags = XattrFlags::default();
        let refused = w.b.setxattr(&w.root, &path, false, b"user.a", b"", flags);
        assert_eq!(refused, Err(Errno::EPERM));
        // Copying the object up asks for everything that the host knows of it.
        w.b.chmod(&w.root, &path, 0o640).unwrap();
        let moved = format!("/moved-{name}");
        w.b.rename(&w.root, &path, &moved, RenameFlags::REPLACE)
            .unwrap();
        assert_eq!(openings.heard(), 0, "{name} was opened");
    }
    assert_eq!(openings.heard(), 0);
}

/// The host's writer waits for a reader, and keeps waiting.
#[test]
fn the_writer_of_a_fifo_does_not_notice_that_somebody_looks() {
    let host = tempfile::tempdir().unwrap();
    let fifo = host.path().join("fifo");
    special(&fifo, FileType::Fifo, 0);
    let w = World::over(host.path());
    let ours = OpenFlags::WRITE_ONLY;
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        move || std::io::Write::write_all(&mut fs::File::options().write(true).open(fifo)?, b"line")
    });
    for _ in 0..1000 {
        w.b.lstat(&w.root, "/fifo").unwrap();
        w.b.listxattr(&w.root, "/fifo", false).unwrap();
        w.b.open(&w.root, "/fifo", ours, 0).unwrap_err();
    }
    assert!(!writer.is_finished());
    assert_eq!(fs::read_to_string(&fifo).unwrap(), "line");
    writer.join().unwrap().unwrap();
}

/// A file and a FIFO have the same name in turn, for a while.
#[test]
fn a_fifo_that_takes_the_place_of_a_file_is_not_opened_either() {
    let host = tempfile::tempdir().unwrap();
    let (file, fifo) = (host.path().join("file"), host.path().join("fifo"));
    fs::write(&file, "bytes").unwrap();
    special(&fifo, FileType::Fifo, 0);
    let openings = Openings::of(std::slice::from_ref(&fifo));
    let is_over = AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &file, CWD, &fifo, flags).unwrap();
            }
        });
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut reads = 0;
        while Instant::now() < deadline {
            // Each attempt uses a branch that has looked at nothing yet.
            let w = World::over(host.path());
            for path in ["/file", "/fifo"] {
                let opened = w.b.open(&w.root, path, OpenFlags::READ, 0);
                drop(w.b.listxattr(&w.root, path, false));
                let mut buffer = [0; 16];
                let read = opened.and_then(|it| w.b.read(&w.root, it, &mut buffer));
                reads += usize::from(read == Ok(5));
            }
        }
        is_over.store(true, Ordering::Relaxed);
        reads
    });
    assert_eq!(openings.heard(), 0);
    assert!(reads > 0, "the file was never read");
}
