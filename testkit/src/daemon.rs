//! Daemons in processes of their own, and the `agentfs` program.

use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use agentfs_client::Client;
use agentfs_proto::message::{Hello, Ping};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::child::{PATIENCE, ended, ended_within, soon};

/// Makes a directory for this user alone.
pub fn private_directory() -> TempDir {
    let private = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new()
        .permissions(private)
        .tempdir()
        .unwrap()
}

/// A daemon in a process of its own.
pub struct DaemonProcess {
    pub directory: TempDir,
    child: Child,
    /// The socket that the environment of the daemon and of those after it names.
    _ready: Ready,
}

impl DaemonProcess {
    /// Starts a daemon and waits until it listens.
    pub fn start() -> Self {
        Self::start_in(private_directory(), &[])
    }

    pub fn start_in(directory: TempDir, arguments: &[&str]) -> Self {
        let ready = Ready::new();
        let child = agentfs(directory.path())
            .arg("daemon")
            .args(arguments)
            .env("NOTIFY_SOCKET", ready.path())
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        ready.wait();
        // Nobody reads what comes later, of this daemon and of those that its keepers start.
        ready.socket.shutdown(Shutdown::Read).unwrap();
        Self {
            directory,
            child,
            _ready: ready,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    pub fn client(&self) -> Client {
        connect(&self.socket())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs `agentfs` with this daemon.
    pub fn run(&self, arguments: &[&str]) -> Output {
        agentfs(self.directory.path())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs `agentfs` with this daemon, which must succeed. Returns what it writes to standard output.
    #[track_caller]
    pub fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        ended(&mut self.child)
    }

    /// Kills the daemon. Its directory stays.
    pub fn kill(mut self) -> TempDir {
        self.signal(Signal::KILL);
        self.wait();
        std::mem::replace(&mut self.directory, private_directory())
    }

    /// Returns how many descriptors the daemon has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }
}

impl Drop for DaemonProcess {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.signal(Signal::TERM);
        // When the daemon is killed, its mounts are aborted, which frees the programs that hang there.
        let status = ended_within(&mut self.child, PATIENCE);
        assert!(
            status.is_some() || std::thread::panicking(),
            "the daemon ends at SIGTERM"
        );
    }
}

/// The socket on which a started process reports that it is ready, as it would to systemd.
pub struct Ready {
    directory: TempDir,
    socket: UnixDatagram,
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}

impl Ready {
    pub fn new() -> Self {
        let directory = private_directory();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { directory, socket }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    pub fn wait(&self) {
        let mut state = [0; 64];
        let len = self.socket.recv(&mut state).unwrap();
        assert_eq!(&state[..len], b"READY=1");
    }
}

/// Returns the path of the `agentfs` program, which cargo builds beside the tests of its package.
///
/// Cargo names it in `CARGO_BIN_EXE_agentfs` for these tests only, and not for a library they use.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // The program is .../agentfs, when the test is .../deps/it-HASH.
    test.parent().unwrap().with_file_name("agentfs")
}

/// Returns a command of the program, with its socket in `directory`.
pub fn agentfs(directory: &Path) -> Command {
    let mut command = Command::new(program());
    command.env("AGENTFS_SOCKET", directory.join("control.sock"));
    // The work that the daemon's branches hold is exported there when it ends.
    command.env("XDG_STATE_HOME", directory.join("state"));
    command
}

pub fn connect(socket: &Path) -> Client {
    Client::connect(socket, Hello::new("test"), soon())
        .unwrap()
        .0
}

/// Checks that the daemon answers this session.
pub fn assert_answers(client: &mut Client) {
    assert_eq!(client.call(Ping { nonce: 99 }, soon()).unwrap().value, 99);
}
