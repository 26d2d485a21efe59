//! Tests that a mount outlives its server: another one goes on, and programs only wait.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentfs_core::id::NodeId;
use agentfs_core::{Branch, Caller, FsCore, OpenFlags, RenameFlags};
use agentfs_mount::{Kept, MountHandle, MountOptions, Mounts};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, StatxFlags, inotify};

use crate::support::Fixture;

/// How long the tests wait for what must come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const TAKEOVERS: usize = 50;
const LOOKUP: u32 = 1;
const SYMLINK: u32 = 6;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RMDIR: u32 = 11;
const RENAME: u32 = 12;
const LINK: u32 = 13;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const GETXATTR: u32 = 22;
const CREATE: u32 = 35;
/// More than any request has.
const REQUEST: usize = (1 << 20) + (1 << 16);

fn unguarded() -> MountOptions {
    MountOptions {
        guarded: false,
        ..MountOptions::default()
    }
}

/// Runs something that may have to wait for a server.
pub(crate) fn start<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (done, result) = channel();
    std::thread::spawn(move || done.send(job()));
    result
}

/// Asks the server for attributes, whatever the kernel remembers.
fn look(path: &Path) -> std::io::Result<u64> {
    let flags = AtFlags::STATX_FORCE_SYNC;
    let seen = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS)?;
    Ok(seen.stx_size)
}

/// Leaves a mount, and waits until none of its threads reads requests any more: what ends them is the end
/// of a process, or a request that each of them takes and leaves.
fn leave(mounts: &Mounts, mount: MountHandle) -> Kept {
    let (id, point) = (mount.info().id, mount.info().point.clone());
    let kept = mount.leave().unwrap();
    let end = Instant::now() + DEADLINE;
    while mounts.list().iter().any(|it| it.id == id) {
        assert!(Instant::now() < end, "the threads of a mount go on");
        let point = point.clone();
        // The next server answers.
        drop(start(move || look(&point)));
        std::thread::yield_now();
    }
    kept
}

/// Reads requests as a server does that is then killed before it answers any; ends when it has read
/// these numbers of operations (`enum fuse_opcode`).
/// Those of `refused` it answers with an error.
fn swallow(kept: &Kept, operations: &[u32], refused: &[(u32, i32)]) {
    let (mut buffer, mut wanted) = (vec![0; REQUEST], operations.to_vec());
    let mut seen = Vec::new();
    let patience = Timespec::try_from(DEADLINE).unwrap();
    while !wanted.is_empty() {
        let ready = poll(
            &mut [PollFd::new(&kept.device, PollFlags::IN)],
            Some(&patience),
        );
        assert_eq!(ready, Ok(1), "no request of {wanted:?}, but {seen:?}");
        let length = rustix::io::read(&kept.device, &mut buffer).unwrap();
        assert!(length >= 40, "the length of struct fuse_in_header");
        let operation = u32::from_ne_bytes(buffer[4..8].try_into().unwrap());
        wanted.retain(|it| *it != operation);
        seen.push(operation);
        if let Some((_, error)) = refused.iter().find(|it| it.0 == operation) {
            refuse(kept, &buffer[8..16], *error);
        }
    }
}

/// Answers a request, by its number, with an error (`struct fuse_out_header`).
fn refuse(kept: &Kept, unique: &[u8], error: i32) {
    let mut answer = 16_u32.to_ne_bytes().to_vec();
    answer.extend_from_slice(&(-error).to_ne_bytes());
    answer.extend_from_slice(unique);
    assert_eq!(rustix::io::write(&kept.device, &answer), Ok(16));
}

fn make(fixture: &Fixture, path: &str, content: &[u8]) {
    let (branch, root) = (fixture.main(), Caller::root());
    let flags = OpenFlags::WRITE_ONLY | OpenFlags::CREATE;
    let file = branch.open(&root, path, flags, 0o644).unwrap();
    branch.write_at(&root, file, 0, content).unwrap();
    branch.close(&root, file).unwrap();
}

#[test]
fn programs_that_wait_while_the_server_is_away_are_answered_by_the_next_one() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    fixture.main().mkdir(&Caller::root(), "/d", 0o755).unwrap();
    for name in ["/d/opened", "/d/read", "/d/looked"] {
        make(&fixture, name, name.as_bytes());
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = fixture
        .mounts
        .mount(FsCore::MAIN, dir.path(), &unguarded())
        .unwrap();
    let inside = dir.path().join("d");
    let mut open = File::open(inside.join("read")).unwrap();
    // The kernel knows its name, and asks for the opening at once.
    assert!(inside.join("opened").exists());
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, &inside, inotify::WatchFlags::CREATE).unwrap();
    let mut shell = Command::new("sh")
        .args([
            "-c",
            "read -r _; cat opened; echo; /bin/pwd; echo new >made",
        ])
        .current_dir(&inside)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let kept = leave(&fixture.mounts, mount);
    let read = start(move || {
        let mut content = String::new();
        open.read_to_string(&mut content).map(|_| content)
    });
    let path = inside.join("opened");
    let opened = start(move || fs::read_to_string(path));
    let path = inside.join("looked");
    let looked = start(move || look(&path));
    // All three are in the hands of a server that answers none of them.
    swallow(&kept, &[READ, OPEN, LOOKUP], &[]);
    // And this one waits in the kernel.
    shell.stdin.take().unwrap().write_all(b"\n").unwrap();

    let mounts = Mounts::new(&fixture.fs).unwrap();
    let second = mounts.take_over(kept, &unguarded()).unwrap();
    assert_eq!(
        read.recv_timeout(DEADLINE).unwrap().unwrap(),
        "/d/read",
        "with the file that was open"
    );
    let opened = opened.recv_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!(opened, "/d/opened");
    let looked = looked.recv_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!(looked, "/d/looked".len() as u64);
    let output = start(move || shell.wait_with_output().unwrap());
    let output = output.recv_timeout(DEADLINE).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("/d/opened\n{}\n", inside.display()));
    assert_eq!(heard(&watch), ["made"]);
    second.unmount(true).unwrap();
}

/// A program's call, with what it does in the directory that it is given.
type Call = fn(&Path) -> std::io::Result<()>;

/// A change that is carried out and not answered: its request (`enum fuse_opcode`), what the server does in
/// a directory, and what the program does there.
struct Unanswered {
    operation: u32,
    carry_out: fn(&Branch, NodeId),
    call: Call,
}

const NEW: &[u8] = b"new";
const OLD: &[u8] = b"old";

/// Returns the changes that fail, or do something else, when they are carried out twice.
fn unanswered() -> Vec<Unanswered> {
    let change = |operation, carry_out, call| Unanswered {
        operation,
        carry_out,
        call,
    };
    vec![
        change(
            MKDIR,
            |branch, dir| {
                branch.mkdir_at(&Caller::root(), dir, NEW, 0o755).unwrap();
            },
            |dir| fs::create_dir(dir.join("new")),
        ),
        change(
            SYMLINK,
            |branch, dir| {
                let root = Caller::root();
                branch.symlink_at(&root, dir, NEW, b"to").unwrap();
            },
            |dir| std::os::unix::fs::symlink("to", dir.join("new")),
        ),
        change(
            LINK,
            |branch, dir| {
                let old = branch.lookup(&Caller::root(), dir, OLD).unwrap().node;
                branch.link_node(&Caller::root(), old, dir, NEW).unwrap();
            },
            |dir| fs::hard_link(dir.join("old"), dir.join("new")),
        ),
        change(
            CREATE,
            |branch, dir| {
                let flags = OpenFlags::WRITE_ONLY | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
                let root = Caller::root();
                let made = branch.create_at(&root, dir, NEW, flags, 0o444).unwrap();
                branch.close(&root, made.0).unwrap();
            },
            |dir| {
                let mut options = OpenOptions::new();
                let options = options.write(true).create_new(true).mode(0o444);
                options.open(dir.join("new"))?.write_all(b"written")
            },
        ),
        change(
            UNLINK,
            |branch, dir| branch.unlink_at(&Caller::root(), dir, OLD).unwrap(),
            |dir| fs::remove_file(dir.join("old")),
        ),
        change(
            RMDIR,
            |branch, dir| branch.rmdir_at(&Caller::root(), dir, b"dir").unwrap(),
            |dir| fs::remove_dir(dir.join("dir")),
        ),
        change(
            RENAME,
            |branch, dir| {
                let flags = RenameFlags::from_bits(0);
                let root = Caller::root();
                branch.rename_at(&root, dir, OLD, dir, NEW, flags).unwrap();
            },
            |dir| fs::rename(dir.join("old"), dir.join("new")),
        ),
    ]
}

#[test]
fn change_that_the_killed_server_made_and_did_not_answer_is_made_once() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let (main, root) = (fixture.main(), Caller::root());
    let (all, dir) = (unanswered(), tempfile::tempdir().unwrap());
    let name = |at: usize| format!("d{at}");
    for at in 0..all.len() {
        main.mkdir(&root, format!("/d{at}"), 0o755).unwrap();
        main.mkdir(&root, format!("/d{at}/dir"), 0o755).unwrap();
        make(&fixture, &format!("/d{at}/old"), b"");
    }
    make(&fixture, "/log", b"first");
    let options = unguarded();
    let mount = fixture.mounts.mount(FsCore::MAIN, dir.path(), &options);
    let mount = mount.unwrap();
    let mut log = OpenOptions::new();
    let mut log = log.append(true).open(dir.path().join("log")).unwrap();
    for at in 0..all.len() {
        let inside = dir.path().join(name(at));
        // The kernel knows what is there, so the change itself is what it asks for.
        assert!(inside.join("old").exists() && inside.join("dir").exists());
        assert!(!inside.join("new").exists());
    }

    let kept = leave(&fixture.mounts, mount);
    let appended = start(move || log.write_all(b"+second"));
    let calls = all.iter().enumerate().map(|(at, it)| {
        let (inside, call) = (dir.path().join(name(at)), it.call);
        start(move || call(&inside))
    });
    let calls: Vec<_> = calls.collect();
    let mut operations: Vec<_> = all.iter().map(|it| it.operation).collect();
    operations.push(WRITE);
    // The kernel looks each new name up before it asks for the change.
    let refused = [(LOOKUP, libc::ENOENT), (GETXATTR, libc::ENODATA)];
    swallow(&kept, &operations, &refused);
    for (at, it) in all.iter().enumerate() {
        let inside = main.stat(&root, name(at)).unwrap().node;
        (it.carry_out)(&main, inside);
    }
    let flags = OpenFlags::WRITE_ONLY | OpenFlags::APPEND;
    let file = main.open(&root, "/log", flags, 0).unwrap();
    main.write_at(&root, file, 0, b"+second").unwrap();
    main.close(&root, file).unwrap();

    let second = fixture.mounts.take_over(kept, &options).unwrap();
    for (it, result) in all.iter().zip(calls) {
        let result = result.recv_timeout(DEADLINE).unwrap();
        assert!(result.is_ok(), "operation {}: {result:?}", it.operation);
    }
    appended.recv_timeout(DEADLINE).unwrap().unwrap();
    assert_eq!(fs::read(dir.path().join("log")).unwrap(), b"first+second");
    let error = fs::create_dir(dir.path().join("d0/new")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    second.unmount(true).unwrap();
}

/// Returns the names of the next events.
pub(crate) fn heard(watch: &rustix::fd::OwnedFd) -> Vec<String> {
    let patience = Timespec::try_from(DEADLINE).unwrap();
    let ready = poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&patience));
    assert_eq!(ready, Ok(1), "no event");
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut space);
    let mut names = Vec::new();
    while let Ok(event) = reader.next() {
        let name = event.file_name().map(|name| name.to_str().unwrap());
        names.push(name.unwrap_or_default().to_owned());
    }
    names
}

#[test]
fn what_is_open_goes_on_for_reading_writing_and_appending() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut mount = fixture
        .mounts
        .mount(FsCore::MAIN, dir.path(), &unguarded())
        .unwrap();
    let path = dir.path().join("f");
    let both = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    let mut appends = OpenOptions::new().append(true).open(&path).unwrap();
    // The last one goes on with what two servers before it opened.
    for round in 0..3 {
        let kept = leave(&fixture.mounts, mount);
        mount = fixture.mounts.take_over(kept, &unguarded()).unwrap();
        both.write_all_at(b"0123", 0).unwrap();
        appends.write_all(b"+").unwrap();
        let mut content = vec![0; 5 + round];
        both.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(content[..4], *b"0123");
        assert_eq!(content[4..], vec![b'+'; round + 1]);
    }
    both.set_len(2).unwrap();
    drop((both, appends));
    assert_eq!(fs::read(&path).unwrap(), b"01");
    let main = fixture.main();
    assert_eq!(main.stat(&Caller::root(), "/f").unwrap().size, 2);
    mount.unmount(true).unwrap();
    assert!(mount.wait_unmounted(DEADLINE));
    assert_eq!(fixture.mounts.list(), []);
}

#[test]
fn change_that_was_made_while_no_server_was_there_is_seen() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    make(&fixture, "/f", b"before");
    let dir = tempfile::tempdir().unwrap();
    let mount = fixture
        .mounts
        .mount(FsCore::MAIN, dir.path(), &unguarded())
        .unwrap();
    let (path, new) = (dir.path().join("f"), dir.path().join("new"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    assert!(!new.exists(), "and the kernel remembers that");
    let kept = leave(&fixture.mounts, mount);
    make(&fixture, "/new", b"");
    let second = fixture.mounts.take_over(kept, &unguarded()).unwrap();
    if has_epochs() {
        assert!(new.exists());
    }
    // The kernel has the pages of a file of which this server knows nothing.
    make(&fixture, "/f", b"behind");
    assert_eq!(fs::read_to_string(&path).unwrap(), "behind");
    second.unmount(true).unwrap();
}

/// Returns whether the kernel can be made to look up every name again.
fn has_epochs() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|it| it.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(16))
}

/// Threads that work in a mount, each until it is told to end or something fails.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

type Work = Box<dyn FnMut(u64) -> std::io::Result<()> + Send>;

impl Load {
    pub(crate) fn start(work: Vec<Work>) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let threads = work.into_iter().map(|mut work| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    work(round)?;
                    round += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let threads = threads.collect();
        Self {
            stop,
            done,
            threads,
        }
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    #[track_caller]
    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = start(move || {
            let ends = self.threads.into_iter().map(|it| it.join().unwrap());
            ends.collect::<Vec<_>>()
        });
        for end in ended.recv_timeout(DEADLINE).expect("a program hangs") {
            end.unwrap();
        }
    }
}

/// Opens a file so that each read and write is a request.
fn direct() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(libc::O_DIRECT);
    options
}

/// Returns work that can be done twice without harm: a killed server may have done it, and not said so.
pub(crate) fn harmless(dir: &Path) -> Vec<Work> {
    let (a, w) = (dir.join("a"), dir.join("w"));
    let open = direct().read(true).open(&a).unwrap();
    let written = direct().write(true).open(&w).unwrap();
    let looked = dir.to_owned();
    vec![
        Box::new(move |_| look(&looked).map(drop)),
        Box::new(move |_| {
            let mut page = [0; 4096];
            direct().read(true).open(&a)?.read_exact_at(&mut page, 0)?;
            assert_eq!(page, [b'a'; 4096]);
            Ok(())
        }),
        Box::new(move |round| {
            let mut page = [0; 4096];
            open.read_exact_at(&mut page, round % 16 * 4096)?;
            assert_eq!(page, [b'a'; 4096]);
            Ok(())
        }),
        Box::new(move |round| written.write_all_at(&[b'w'; 4096], round % 16 * 4096)),
    ]
}

#[test]
fn takeovers_under_load_are_no_error_and_do_everything_once() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut mount = fixture
        .mounts
        .mount(FsCore::MAIN, dir.path(), &unguarded())
        .unwrap();
    fs::write(dir.path().join("a"), vec![b'a'; 64 << 10]).unwrap();
    fs::write(dir.path().join("w"), "").unwrap();
    let mut work = harmless(dir.path());
    let (names, renamed) = (dir.path().join("names"), dir.path().join("renamed"));
    work.push(Box::new(move |_| {
        fs::create_dir(&names)?;
        File::create_new(names.join("f"))?;
        fs::rename(names.join("f"), &renamed)?;
        fs::remove_file(&renamed)?;
        fs::remove_dir(&names)
    }));
    let log = dir.path().join("log");
    let mut appends = OpenOptions::new();
    let mut appends = appends.append(true).create_new(true).open(&log).unwrap();
    let lines = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&lines);
    work.push(Box::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        appends.write_all(b"+")
    }));
    let load = Load::start(work);
    for round in 0..TAKEOVERS {
        let before = load.done();
        let kept = leave(&fixture.mounts, mount);
        mount = fixture.mounts.take_over(kept, &unguarded()).unwrap();
        wait_for_work(&load, before, round);
    }
    load.end();
    let appended = fs::metadata(&log).unwrap().len();
    assert_eq!(appended, lines.load(Ordering::Relaxed));
    mount.unmount(true).unwrap();
}

/// Waits until more has been done, or a thread has failed.
pub(crate) fn wait_for_work(load: &Load, before: u64, round: usize) {
    let end = Instant::now() + DEADLINE;
    while load.done() < before + 10 && !load.threads.iter().any(JoinHandle::is_finished) {
        assert!(Instant::now() < end, "nothing goes on, {round}");
        std::thread::yield_now();
    }
}
