//! The built library, and programs that run under it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::program::Program;

/// Returns the path of the library that was built with this test or program.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // The library is .../deps/libagentfs_interpose_shim.so, when the test is .../deps/it-HASH
        // or the program .../PROGRAM.
        let this = std::env::current_exe().unwrap();
        let beside = this.parent().unwrap();
        let folder = if beside.ends_with("deps") {
            beside.to_owned()
        } else {
            beside.join("deps")
        };
        let library = folder.join("libagentfs_interpose_shim.so");
        assert!(
            library.exists(),
            "cargo builds {} together with this program",
            library.display()
        );
        library
    })
}

/// Makes a directory, on a filesystem in memory where there is one.
pub fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap()
}

/// Returns the path of the user-space kqueue as a library.
pub fn kqueue_library() -> PathBuf {
    library().with_file_name("libagentfs_testkq_preload.so")
}

/// Compiles a C program with the libraries that it names.
pub fn compile(source: &Path, program: &Path, libraries: &[&OsStr]) {
    let status = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-pthread", "-o"])
        .args([program, source])
        .args(libraries)
        .status()
        .unwrap();
    assert!(status.success(), "cc compiles {}", source.display());
}

/// A C program that is compiled once.
struct Source {
    name: &'static str,
    text: &'static str,
    compiled: OnceLock<(TempDir, PathBuf)>,
}

impl Source {
    const fn new(name: &'static str, text: &'static str) -> Self {
        let compiled = OnceLock::new();
        Self {
            name,
            text,
            compiled,
        }
    }

    fn path(&self, libraries: &[&OsStr]) -> &Path {
        let (_directory, path) = self.compiled.get_or_init(|| {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join(self.name);
            let source = path.with_extension("c");
            std::fs::write(&source, self.text).unwrap();
            compile(&source, &path, libraries);
            (directory, path)
        });
        path
    }
}

static SCRIPT: Source = Source::new("script", include_str!("../programs/script.c"));
static KQ_DEMO: Source = Source::new(
    "kq_demo",
    include_str!("../../interpose/examples/kq_demo.c"),
);
static KQUEUE: Source = Source::new("kqueue", include_str!("../programs/kqueue.c"));

/// Returns a command with the library preloaded.
pub fn preloaded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", library());
    command
}

/// Returns a command of a program with the user-space kqueue and, when there is a socket, with the library.
fn with_kqueue(program: &Source, socket: Option<&Path>) -> Command {
    let kqueue = kqueue_library();
    let mut command = Command::new(program.path(&[kqueue.as_os_str()]));
    let mut preload = kqueue.into_os_string();
    if let Some(socket) = socket {
        // The library stands in front, as a library that is preloaded is in front of the system's.
        let mut both = library().as_os_str().to_owned();
        both.push(":");
        both.push(&preload);
        preload = both;
        command.env("AGENTFS_SOCKET", socket);
    }
    command.env("LD_PRELOAD", preload);
    command
}

/// A running `script.c`, or another program that reads commands.
pub struct Script(Program);

impl Script {
    /// Starts `script.c` with the library, which finds a daemon at `socket`.
    pub fn start(socket: &Path) -> Self {
        Self::start_with(socket, |_| {})
    }

    /// Does as [`start`](Self::start), with more in the environment.
    pub fn start_with(socket: &Path, more: impl FnOnce(&mut Command)) -> Self {
        let mut command = preloaded(SCRIPT.path(&["-ldl".as_ref()]));
        command
            .env("AGENTFS_SOCKET", socket)
            .env("AGENTFS_ANY_FILESYSTEM", "1");
        more(&mut command);
        Self::spawn(command)
    }

    /// Starts `kqueue.c` with the user-space kqueue and, when there is a socket, with the library.
    pub fn start_kqueue(socket: Option<&Path>) -> Self {
        let mut command = with_kqueue(&KQUEUE, socket);
        command.env("AGENTFS_ANY_FILESYSTEM", "1");
        Self::spawn(command)
    }

    /// Starts `kq_demo.c`, watching `paths`, and waits until it does.
    pub fn start_kq_demo(socket: &Path, paths: &[&Path], more: impl FnOnce(&mut Command)) -> Self {
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
    pub fn spawn(mut command: Command) -> Self {
        Self(Program::start_showing_errors(&mut command))
    }

    /// Writes a command and does not wait for its answer.
    pub fn begin(&mut self, command: impl AsRef<str>) {
        self.0.say(command.as_ref());
    }

    /// Waits for the next answer.
    #[track_caller]
    pub fn answer(&self) -> String {
        self.0.line()
    }

    /// Writes a command and waits for its answer.
    #[track_caller]
    pub fn ask(&mut self, command: impl AsRef<str>) -> String {
        self.begin(command);
        self.answer()
    }

    /// Writes a command whose answer is a number.
    pub fn number(&mut self, command: impl AsRef<str>) -> i32 {
        let answer = self.ask(command);
        answer.parse().unwrap_or_else(|_| panic!("{answer}"))
    }

    /// Makes a new instance.
    pub fn init(&mut self, flags: i32) -> i32 {
        self.number(format!("init {flags}"))
    }

    /// Watches a path.
    pub fn add(&mut self, fd: i32, mask: u32, path: &Path) -> i32 {
        self.number(format!("add {fd} {mask:x} {}", path.display()))
    }

    /// Returns the id of the program's process.
    pub fn id(&self) -> i32 {
        i32::try_from(self.0.pid()).unwrap()
    }

    /// Ends the program, and waits until it has ended with success.
    #[track_caller]
    pub fn end(mut self) {
        let (status, _, _) = self.0.finish();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Script {
    /// Kills the program, which may be asleep. A child that it left ends with its input.
    fn drop(&mut self) {
        self.0.kill();
    }
}
