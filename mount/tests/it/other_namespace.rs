//! Tests mounts that were made in a mount namespace of their own, and are served from outside.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentfs_core::{Caller, Errno, FsCore, OpenFlags};
use agentfs_mount::{
    Kept, MountError, MountOptions, SavedMount, UnmountError, Unserved, mount_elsewhere,
};
use agentfs_testkit::environment::can_mount;
use rustix::mount::MountPropagationFlags;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tempfile::TempDir;

use crate::support::Fixture;

/// How long the tests wait for an end that must come.
const DEADLINE: Duration = Duration::from_secs(20);

type Job = Box<dyn FnOnce(&Path) + Send>;

/// A thread in a mount namespace of its own, with a mount in it.
struct Inside {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    dir: TempDir,
}

impl Inside {
    fn start() -> (Self, Unserved) {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().to_owned();
        let (jobs, asked) = channel::<Job>();
        let (mounted, mounts) = channel();
        let thread = std::thread::spawn(move || {
            #[expect(unsafe_code, reason = "unshare is unsafe because of CLONE_FILES")]
            // SAFETY: the flags do not contain UnshareFlags::FILES: descriptors stay shared.
            unsafe {
                unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS).unwrap();
            }
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            mounted
                .send(mount_elsewhere(&point, &MountOptions::default()).unwrap())
                .unwrap();
            for job in asked {
                job(&point);
            }
        });
        let inside = Self {
            jobs: Some(jobs),
            thread: Some(thread),
            dir,
        };
        (inside, mounts.recv().unwrap())
    }

    /// Runs a job in the mount namespace.
    fn run<T: Send + 'static>(&self, job: impl FnOnce(&Path) -> T + Send + 'static) -> T {
        let (done, result): (_, Receiver<T>) = channel();
        let job = Box::new(move |point: &Path| done.send(job(point)).unwrap());
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result.recv().expect("the job panicked")
    }

    fn end(&mut self) {
        self.jobs = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_mount_of_another_namespace_shows_its_branch_and_what_changes_there() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let (mut inside, unserved) = Inside::start();
    let (point, options) = (inside.dir.path().to_owned(), MountOptions::default());
    let st_dev = unserved.st_dev;
    let mount = fixture
        .mounts
        .serve(FsCore::MAIN, unserved, &point, &options)
        .unwrap();
    assert_eq!(mount.info().device, st_dev);
    assert_eq!(mount.info().point, point);
    inside.run(|point| fs::write(point.join("f"), "from inside").unwrap());
    assert!(!point.join("f").exists(), "it is mounted here too");

    let (branch, root) = (fixture.main(), Caller::root());
    let size = branch.stat(&root, "/f").unwrap().size;
    assert_eq!(size, "from inside".len() as u64);
    // What the kernel now remembers is removed from its caches before the call returns.
    let read = |point: &Path| fs::read_to_string(point.join("f")).unwrap();
    assert_eq!(inside.run(read), "from inside");
    let handle = branch.open(&root, "/f", OpenFlags::WRITE_ONLY, 0).unwrap();
    branch
        .write_at(&root, handle, 0, b"from outside, longer")
        .unwrap();
    branch.close(&root, handle).unwrap();
    assert_eq!(inside.run(read), "from outside, longer");
    branch.unlink(&root, "/f").unwrap();
    assert!(!inside.run(|point| point.join("f").exists()));

    inside.end();
    assert!(
        mount.wait_unmounted(DEADLINE),
        "it outlives its last process"
    );
    assert_eq!(fixture.mounts.list(), []);
}

#[test]
fn who_uses_a_mount_of_another_namespace_gets_errors_when_it_is_cut_off() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let (mut inside, unserved) = Inside::start();
    let (point, options) = (inside.dir.path().to_owned(), MountOptions::default());
    let mount = fixture
        .mounts
        .serve(FsCore::MAIN, unserved, &point, &options)
        .unwrap();
    let open = inside.run(|point| File::create(point.join("f")).unwrap());
    let refused = mount.unmount(false);
    assert!(
        matches!(refused, Err(UnmountError::Busy(_))),
        "{refused:?}: nobody can tell whether it is in use"
    );
    mount.unmount(true).unwrap();
    assert!(mount.wait_unmounted(DEADLINE));
    let error = inside.run(|point| fs::metadata(point.join("g")).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    drop(open);
    inside.end();
}

/// When a connection ends, the kernel sends no more about what is open.
#[test]
fn a_branch_has_no_open_files_when_its_mount_has_ended() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let root = Caller::root();
    let made = fixture
        .fs
        .branch_create_from_current(&root, FsCore::MAIN, "b");
    let branch = made.unwrap();
    let (mut inside, unserved) = Inside::start();
    let (point, options) = (inside.dir.path().to_owned(), MountOptions::default());
    let mount = fixture.mounts.serve(branch, unserved, &point, &options);
    let mount = mount.unwrap();
    let made = inside.run(|point| File::create(point.join("f")).unwrap());
    let read = inside.run(|point| File::open(point.join("f")).unwrap());
    assert_eq!(fixture.fs.branch_delete(branch), Err(Errno::EBUSY));
    mount.unmount(true).unwrap();
    assert!(mount.wait_unmounted(DEADLINE));
    assert_eq!(fixture.fs.branch_delete(branch), Ok(()));
    drop((made, read));
    inside.end();
}

#[test]
fn a_mount_of_another_namespace_is_taken_over() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let (mut inside, unserved) = Inside::start();
    let (point, options) = (inside.dir.path().to_owned(), MountOptions::default());
    let mount = fixture
        .mounts
        .serve(FsCore::MAIN, unserved, &point, &options)
        .unwrap();
    let mut open = inside.run(|point| File::create_new(point.join("f")).unwrap());
    let kept = mount.leave().unwrap();
    // As if it came from another process, by way of a file.
    let saved = SavedMount::from_bytes(&kept.saved.to_bytes()).unwrap();
    // Each of the threads that still wait takes a request, and leaves it to the next server.
    let end = Instant::now() + DEADLINE;
    while !fixture.mounts.list().is_empty() {
        assert!(Instant::now() < end, "the threads of a mount go on");
        inside.run(|point| {
            let asked = point.join("asked");
            drop(std::thread::spawn(move || fs::metadata(asked)));
        });
    }
    let kept = Kept::new(kept.device, saved);
    let second = fixture.mounts.take_over(kept, &options).unwrap();
    assert_eq!(second.info().point, point);
    open.write_all(b"goes on").unwrap();
    let read = inside.run(|point| fs::read_to_string(point.join("f")).unwrap());
    assert_eq!(read, "goes on");
    second.unmount(true).unwrap();
    assert!(second.wait_unmounted(DEADLINE));
    drop(open);
    inside.end();
}

#[test]
fn what_is_no_mount_is_not_served() {
    if !can_mount() {
        return;
    }
    let fixture = Fixture::empty().unwrap();
    let serve = |device: File, st_dev| {
        let unserved = Unserved {
            device: device.into(),
            st_dev,
            group: None,
        };
        let (point, options) = (PathBuf::from("/nowhere"), MountOptions::default());
        let served = fixture
            .mounts
            .serve(FsCore::MAIN, unserved, &point, &options);
        served.map(drop).unwrap_err()
    };
    let other = serve(File::open("/dev/null").unwrap(), 77);
    assert!(matches!(other, MountError::NoSuchMount), "{other:?}");
    let open = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open("/dev/fuse").unwrap()
    };
    let unmounted = serve(open(), 77);
    assert!(matches!(unmounted, MountError::Io(_)), "{unmounted:?}");
    // The descriptor belongs to another mount than the caller says.
    let (mut inside, unserved) = Inside::start();
    let lie = Unserved {
        st_dev: unserved.st_dev + 1,
        ..unserved
    };
    let point = inside.dir.path().to_owned();
    let served = fixture
        .mounts
        .serve(FsCore::MAIN, lie, &point, &MountOptions::default());
    let lie = served.map(drop).unwrap_err();
    assert!(matches!(lie, MountError::NoSuchMount), "{lie:?}");
    inside.end();
    assert_eq!(fixture.mounts.list(), []);
}
