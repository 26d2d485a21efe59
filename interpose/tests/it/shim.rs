//! The built library, and programs that run under it.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

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

/// Compiles a C program of `tests/it/programs`, once.
fn compiled() -> &'static Path {
    static PROGRAM: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_directory, path) = PROGRAM.get_or_init(|| {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("script");
        let source = directory.path().join("script.c");
        std::fs::write(&source, include_str!("programs/script.c")).unwrap();
        let status = Command::new("cc")
            .args(["-O1", "-pthread", "-o"])
            .args([&path, &source])
            .args(["-ldl"])
            .status()
            .unwrap();
        assert!(status.success(), "cc compiles the program");
        (directory, path)
    });
    path
}

/// A command with the library preloaded.
pub(crate) fn preloaded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", library());
    command
}

/// A running `script.c`.
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
        let mut command = preloaded(compiled());
        command
            .env("AGENTFS_SOCKET", socket)
            .env("AGENTFS_ANY_FILESYSTEM", "1");
        more(&mut command);
        Self::spawn(command)
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
    pub(crate) fn end(mut self) {
        drop(self.stdin.take());
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
