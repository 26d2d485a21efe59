//! Tests that a mount outlives its server: another one goes on, and programs only wait.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentfs_core::{Caller, FsCore, OpenFlags};
use agentfs_mount::{
    Kept, MountHandle, MountOptions, Mounts, TakeError, clear_dead, kept_in, take,
};
use agentfs_testkit::environment::can_mount;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, StatxFlags, inotify};
use tempfile::TempDir;

use crate::support::Fixture;

/// How long the tests wait for what must come.
const DEADLINE: Duration = Duration::from_secs(60);
const TAKEOVERS: usize = 50;
/// How often a server is killed.
const KILLS: usize = 12;
const LOOKUP: u32 = 1;
const OPEN: u32 = 14;
const READ: u32 = 15;
/// More than any request has.
const REQUEST: usize = (1 << 20) + (1 << 16);

fn unguarded() -> MountOptions {
    MountOptions {
        guarded: false,
        ..MountOptions::default()
    }
}

/// Runs something that may have to wait for a server.
fn start<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
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
fn swallow(kept: &Kept, operations: &[u32]) {
    let (mut buffer, mut wanted) = (vec![0; REQUEST], operations.to_vec());
    while !wanted.is_empty() {
        let length = rustix::io::read(&kept.device, &mut buffer).unwrap();
        assert!(length >= 40, "the length of struct fuse_in_header");
        let operation = u32::from_ne_bytes(buffer[4..8].try_into().unwrap());
        wanted.retain(|it| *it != operation);
    }
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
    swallow(&kept, &[READ, OPEN, LOOKUP]);
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

/// Returns the names of the next events.
fn heard(watch: &rustix::fd::OwnedFd) -> Vec<String> {
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
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

type Work = Box<dyn FnMut(u64) -> std::io::Result<()> + Send>;

impl Load {
    fn start(work: Vec<Work>) -> Self {
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

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    #[track_caller]
    fn end(self) {
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
fn harmless(dir: &Path) -> Vec<Work> {
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
fn wait_for_work(load: &Load, before: u64, round: usize) {
    let end = Instant::now() + DEADLINE;
    while load.done() < before + 10 && !load.threads.iter().any(JoinHandle::is_finished) {
        assert!(Instant::now() < end, "nothing goes on, {round}");
        std::thread::yield_now();
    }
}

/// A server in a process of its own.
struct ServerProcess(Child);

impl ServerProcess {
    fn start(arguments: &[&Path]) -> Self {
        let tests = std::env::current_exe().unwrap();
        let program: PathBuf = tests.parent().unwrap().join("../examples/takeover");
        assert!(
            program.exists(),
            "run `cargo build -p agentfs-mount --examples` first"
        );
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Lets it leave the mount to the next one.
    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

/// A mount that a server process serves and a keeper keeps.
struct KeptMount {
    sockets: TempDir,
    dir: TempDir,
}

impl KeptMount {
    fn start(patience: &str) -> Option<(Self, ServerProcess)> {
        if !can_mount() {
            return None;
        }
        let (sockets, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let arguments = [
            "serve".as_ref(),
            sockets.path(),
            patience.as_ref(),
            dir.path(),
        ];
        let server = ServerProcess::start(&arguments);
        Some((Self { sockets, dir }, server))
    }

    fn next(&self) -> ServerProcess {
        ServerProcess::start(&["next".as_ref(), self.sockets.path(), "60000".as_ref()])
    }

    fn socket(&self) -> PathBuf {
        let all = kept_in(self.sockets.path()).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }
}

impl Drop for KeptMount {
    fn drop(&mut self) {
        // A mount that a test left is not to be in the way of the removal of the directory.
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(self.dir.path(), flags).unwrap_or_default();
    }
}

#[test]
fn server_that_is_killed_in_the_middle_of_requests_is_replaced_without_an_error() {
    let Some((mount, server)) = KeptMount::start("60000") else {
        return;
    };
    let load = Load::start(harmless(&mount.dir.path().join("d")));
    let mut servers = VecDeque::from([server]);
    for round in 0..KILLS {
        wait_for_work(&load, load.done(), round);
        let server = servers.pop_front().unwrap();
        // The last one before the end leaves in good order.
        if round + 1 == KILLS {
            server.end();
        } else {
            server.kill();
        }
        servers.push_back(mount.next());
    }
    wait_for_work(&load, load.done(), KILLS);
    load.end();
    assert_eq!(
        fs::read(mount.dir.path().join("d/a")).unwrap().len(),
        64 << 10
    );
}

#[test]
fn mount_that_nobody_takes_over_answers_an_error_and_never_shows_what_is_beneath() {
    let Some((mount, server)) = KeptMount::start("200") else {
        return;
    };
    let (point, socket) = (mount.dir.path().to_owned(), mount.socket());
    let path = point.join("d/new");
    // Goes on writing until it fails.
    let writes = start(move || {
        loop {
            if let Err(error) = fs::write(&path, "written") {
                return (
                    error.kind(),
                    fs::write(path.with_file_name("..").join("beneath"), "")
                        .map_err(|error| error.kind()),
                );
            }
        }
    });
    server.kill();
    let (first, later) = writes.recv_timeout(DEADLINE).unwrap();
    assert!(
        matches!(
            first,
            ErrorKind::NotConnected | ErrorKind::ConnectionAborted
        ),
        "{first:?}"
    );
    assert_eq!(later, Err(ErrorKind::NotConnected));
    let late = take(&socket, DEADLINE).unwrap_err();
    assert!(matches!(late, TakeError::NoKeeper(_)), "{late}");
    let error = fs::write(point.join("beneath"), "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    assert!(clear_dead(&point), "it was mounted all the time");
    assert_eq!(fs::read_dir(&point).unwrap().count(), 0);
}

#[test]
fn mount_is_passed_on_only_to_its_user_and_when_no_server_is_there() {
    let Some((mount, server)) = KeptMount::start("60000") else {
        return;
    };
    let socket = mount.socket();
    let served = take(&socket, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(served, TakeError::Served(_)), "{served}");
    if rustix::process::geteuid().is_root() {
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&socket, Clone::clone(&everybody)).unwrap();
        fs::set_permissions(mount.sockets.path(), everybody).unwrap();
        server.kill();
        let stranger = socket.clone();
        // The credentials are those of the thread that connects.
        let refused = start(move || {
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_uid(nobody).unwrap();
            let connection = std::os::unix::net::UnixStream::connect(stranger);
            connection.and_then(|mut it| it.read(&mut [0]))
        });
        let refused = refused.recv_timeout(DEADLINE).unwrap();
        assert_eq!(refused.unwrap(), 0, "nothing is said to a stranger");
    } else {
        server.kill();
    }
    let kept = take(&socket, DEADLINE).unwrap();
    assert_eq!(kept.saved.point, mount.dir.path());
    // Who takes it and does not serve it has not ended it.
    drop(kept);
    mount.next().end();
    let last = mount.next();
    assert_eq!(
        fs::metadata(mount.dir.path().join("d/a")).unwrap().len(),
        64 << 10
    );
    let keeper = mount.socket();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, mount.sockets.path(), inotify::WatchFlags::DELETE).unwrap();
    rustix::mount::unmount(mount.dir.path(), rustix::mount::UnmountFlags::empty()).unwrap();
    // The keeper ends with the mount.
    assert_eq!(
        heard(&watch),
        [keeper.file_name().unwrap().to_str().unwrap()]
    );
    last.kill();
}
