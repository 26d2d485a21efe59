//! Tests applying large sparse files, applying with little room on the host, and an apply that is
//! ended midway.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_core::{ApplyError, ApplyMode, Errno};
use rustix::fs::inotify;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::{World, left_out};

const SIZE: u64 = 200 << 30;

fn names(host: &Path) -> Vec<String> {
    let names = fs::read_dir(host).unwrap();
    let mut names: Vec<String> = names
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_hole_of_200_gib_takes_no_room_on_the_host() {
    let host = tempfile::tempdir().unwrap();
    let path = host.path().join("lower");
    let lower = fs::File::create(&path).unwrap();
    lower.set_len(SIZE).unwrap();
    lower.write_all_at(b"below", SIZE / 2).unwrap();
    let w = World::over(host.path());
    w.put("/new", "first");
    w.b.truncate(&w.root, "/new", SIZE).unwrap();
    let handle = w.open("/lower");
    w.b.write_at(&w.root, handle, SIZE - 4, b"last").unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    for name in ["new", "lower"] {
        let found = fs::metadata(host.path().join(name)).unwrap();
        assert_eq!(found.len(), SIZE);
        assert!(found.blocks() < 100, "{name}: {} blocks", found.blocks());
    }
    let mut text = [0; 5];
    let lower = fs::File::open(&path).unwrap();
    lower.read_exact_at(&mut text, SIZE / 2).unwrap();
    assert_eq!(&text, b"below");
    lower.read_exact_at(&mut text, SIZE - 5).unwrap();
    assert_eq!(&text, b"\0last");
}

#[test]
fn a_large_file_is_left_in_the_middle_when_it_is_told_to_end() {
    let above = tempfile::tempdir().unwrap();
    let host = above.path().join("project");
    fs::create_dir(&host).unwrap();
    let w = World::over(&host);
    let handle =
        w.b.open(
            &w.root,
            "/large",
            agentfs_core::OpenFlags::CREATE | agentfs_core::OpenFlags::READ_WRITE,
            0o644,
        )
        .unwrap();
    let piece = vec![1; 1 << 20];
    for at in 0..512 {
        w.b.write_at(&w.root, handle, at << 20, &piece).unwrap();
    }
    let heard = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&heard, above.path(), inotify::WatchFlags::CREATE).unwrap();
    let cancelled = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        let applying = scope.spawn(|| w.b.apply_unless(ApplyMode::Refuse, &cancelled));
        // The apply has begun.
        let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(&heard, &mut buffer);
        events.next().unwrap();
        cancelled.store(true, Ordering::Relaxed);
        applying.join().unwrap()
    });
    assert_eq!(ended, Err(ApplyError::Cancelled));
    assert_eq!(names(above.path()), ["project"]);
    assert_eq!(names(&host), Vec::<String>::new());
    assert_eq!(w.b.fstat(handle).unwrap().size, 512 << 20);
}

/// A small filesystem that root mounts for the test.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        match mount(
            "agentfs-test",
            directory.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(c"size=1m"),
        ) {
            Ok(()) => Some(Self(directory)),
            Err(errno) => {
                left_out("no tmpfs can be mounted here", errno);
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).unwrap_or(());
    }
}

#[test]
fn a_full_disk_leaves_nothing_half_done_and_the_next_call_does_it_all() {
    let Some(small) = Small::new() else { return };
    let host = small.0.path();
    fs::write(host.join("filler"), vec![1; 600 << 10]).unwrap();
    fs::write(host.join("z"), "old").unwrap();
    let w = World::over(host);
    let text = "x".repeat(100 << 10);
    for number in 0..6 {
        w.put(&format!("/f{number}"), &text);
    }
    w.put("/z", "new");
    let ended = w.b.apply(ApplyMode::Refuse);
    let Err(ApplyError::Host { path, errno }) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(errno, Errno::ENOSPC);
    assert!(path.to_str().unwrap().starts_with('f'), "{path:?}");
    assert_eq!(names(host), ["filler", "z"]);
    assert_eq!(fs::read_to_string(host.join("z")).unwrap(), "old");
    assert_eq!(w.get("/z"), "new");
    fs::remove_file(host.join("filler")).unwrap();
    let all = w.b.apply(ApplyMode::Refuse).unwrap();
    assert_eq!(all.actions.len(), 7);
    assert_eq!(fs::read_to_string(host.join("z")).unwrap(), "new");
    for number in 0..6 {
        let found = fs::read_to_string(host.join(format!("f{number}"))).unwrap();
        assert_eq!(found, text);
    }
}
