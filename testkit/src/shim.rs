//! The built library, and programs that run under it.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

/// How long a program may take for an answer before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The library that was built with this test.
pub(crate) fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // .../deps/it-HASH beside .../deps/libagentfs_interpose_shim.so
        let test = std::env::current_exe().unwrap();
        let library = test.parent().unwrap().join("libagentfs_interpose_shim.so");
        assert!(
            library.exists(),
            "cargo builds {} together with this test",
            library.display()
        );
        library
    })
}

/// A directory on a filesystem in memory where there is one.
pub(crate) fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap()
}

/// The user-space kqueue as a library.
pub(crate) fn kqueue_library() -> PathBuf {
    library().with_file_name("libagentfs_testkq_preload.so")
}

/// Compiles a C program with the libraries that it names.
pub(crate) fn compile(source: &Path, program: &Path, libraries: &[&OsStr]) {
    let status = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-pthread", "-o"])
        .args([program, source])
        .args(libraries)
        .status()
        .unwrap();
    assert!(status.success(), "cc compiles {}", source.display());
}

/// A C program of `tests/it/programs`, compiled once.
struct Program {
    name: &'static str,
    source: &'static str,
    compiled: OnceLock<(TempDir, PathBuf)>,
}

impl Program {
    const fn new(name: &'static str, source: &'static str) -> Self {
        let compiled = OnceLock::new();
        Self {
            name,
            source,
            compiled,
        }
    }

    fn path(&self, libraries: &[&OsStr]) -> &Path {
        let (_directory, path) = self.compiled.get_or_init(|| {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join(self.name);
            let source = path.with_extension("c");
            std::fs::write(&source, self.source).unwrap();
            compile(&source, &path, libraries);
            (directory, path)
        });
        path
    }
}

static SCRIPT: Program = Program::new("script", include_str!("../programs/script.c"));
static KQ_DEMO: Program = Program::new("kq_demo", include_str!("../../interpose/examples/kq_demo.c"));
static KQUEUE: Program = Program::new("kqueue", include_str!("../programs/kqueue.c"));

/// A command with the library preloaded.
pub(crate) fn preloaded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", library());
    command
}

/// A program with the user-space kqueue and, when there is a socket, with the library.
fn with_kqueue(program: &Program, socket: Option<&Path>) -> Command {
    let kqueue = kqueue_library();
    let mut command = Command::new(program.path(&[kqueue.as_os_str()]));
    let mut preload = kqueue.into_os_string();
    if let Some(socket) = socket {
        // In front, as a library that is preloaded is in front of the system's.
        let mut both = library().as_os_str().to_owned();
        both.push(":");
        both.push(&preload);
        preload = both;
        command.env("AGENTFS_SOCKET", socket);
    }
    command.env("LD_PRELOAD", preload);
    command
}

/// A running `script.c`, or another program that is told what to do.
pub(crate) struct Script {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Script {
    /// Starts one with the library, that finds a daemon at `socket`.
    pub(crate) fn start(socket: &Path) -> Self {
        Self::start_with(socket, |_| {})
    }

    /// As [`start`](Self::start), with more in the environment.
    pub(crate) fn start_with(socket: &Path, more: impl FnOnce(&mut Command)) -> Self {
        let mut command = preloaded(SCRIPT.path(&["-ldl".as_ref()]));
        command
            .env("AGENTFS_SOCKET", socket)
            .env("AGENTFS_ANY_FILESYSTEM", "1");
        more(&mut command);
        Self::spawn(command)
    }

    /// Starts `kqueue.c` with the user-space kqueue and, when there is a socket, with the library.
    pub(crate) fn start_kqueue(socket: Option<&Path>) -> Self {
        let mut command = with_kqueue(&KQUEUE, socket);
        command.env("AGENTFS_ANY_FILESYSTEM", "1");
        Self::spawn(command)
    }

    /// Starts `kq_demo.c`, watching `paths`, and waits until it does.
    pub(crate) fn start_kq_demo(
        socket: &Path,
        paths: &[&Path],
        more: impl FnOnce(&mut Command),
    ) -> Self {
        let mut command = with_kqueue(&KQ_DEMO, Some(socket));
        command.args(paths);
        more(&mut command);
        let script = Self::spawn(command);
        assert_eq!(
            script.answer(),
            "ready",
            "its own timer and user event came"
        );
        script
    }

    /// Starts any program that reads lines and answers with lines.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = child.stdout.take().unwrap();
        Self {
            child,
            stdin: Some(stdin),
            lines: lines_of(stdout),
        }
    }

    /// Gives a command and does not wait for its answer.
    pub(crate) fn begin(&mut self, command: impl AsRef<str>) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{}", command.as_ref()).unwrap();
    }

    /// The next answer.
    pub(crate) fn answer(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .expect("an answer in time")
    }

    /// Gives a command and waits for its answer.
    pub(crate) fn ask(&mut self, command: impl AsRef<str>) -> String {
        self.begin(command);
        self.answer()
    }

    /// An answer that is a number.
    pub(crate) fn number(&mut self, command: impl AsRef<str>) -> i32 {
        let answer = self.ask(command);
        answer.parse().unwrap_or_else(|_| panic!("{answer}"))
    }

    /// A new instance.
    pub(crate) fn init(&mut self, flags: i32) -> i32 {
        self.number(format!("init {flags}"))
    }

    /// Watches a path.
    pub(crate) fn add(&mut self, fd: i32, mask: u32, path: &Path) -> i32 {
        self.number(format!("add {fd} {mask:x} {}", path.display()))
    }

    /// Its process.
    pub(crate) fn id(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Ends it.
    #[track_caller]
    pub(crate) fn end(mut self) {
        drop(self.stdin.take());
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).unwrap();
        let patience = Timespec::try_from(PATIENCE).unwrap();
        let mut end = [PollFd::new(&process, PollFlags::IN)];
        let ended = retry_on_intr(|| poll(&mut end, Some(&patience)));
        assert_eq!(ended, Ok(1), "the program ends in time");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Script {
    /// Kills it: it may be asleep. A child that it left ends with its input.
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
