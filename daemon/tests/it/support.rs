//! Daemons to test against.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use agentfs_client::{Client, Deadline};
use agentfs_daemon::server::{Config, Daemon, Limits};
use agentfs_proto::message::{Hello, Ping};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longer than anything takes here: who waits so long waits for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

/// The status of a child, if it ends in time. One that does not is killed, and not waited for: it may
/// hang in the kernel.
pub(crate) fn ended_within(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    if has_ended_within(child, patience) {
        return child.wait().ok();
    }
    drop(child.kill());
    None
}

/// As [`ended_within`], and a child that does not end fails the test.
#[track_caller]
pub(crate) fn ended(child: &mut Child) -> ExitStatus {
    ended_within(child, PATIENCE).expect("the end of a process in time")
}

#[cfg(target_os = "linux")]
fn has_ended_within(child: &Child, patience: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};
    let end = std::time::Instant::now() + patience;
    let Ok(process) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) else {
        // Nobody has waited for it, so it is there.
        return false;
    };
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let left = Timespec::try_from(left).unwrap();
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.unwrap() > 0,
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn has_ended_within(_: &Child, _: Duration) -> bool {
    true
}

/// A directory for this user alone.
pub(crate) fn private_directory() -> TempDir {
    let private = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new()
        .permissions(private)
        .tempdir()
        .unwrap()
}

/// A daemon in a process of its own.
pub(crate) struct DaemonProcess {
    pub(crate) directory: TempDir,
    child: Child,
    /// Told once more when it ends.
    _ready: Ready,
}

impl DaemonProcess {
    /// Starts it and waits until it listens.
    pub(crate) fn start() -> Self {
        Self::start_in(private_directory(), &[])
    }

    pub(crate) fn start_in(directory: TempDir, arguments: &[&str]) -> Self {
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
        Self {
            directory,
            child,
            _ready: ready,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    pub(crate) fn client(&self) -> Client {
        connect(&self.socket())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `agentfs` with this daemon.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        agentfs(self.directory.path())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        ended(&mut self.child)
    }

    /// Kills it. Its directory stays; its page of counters, which the next daemon there would
    /// replace, is removed.
    pub(crate) fn kill(mut self) -> TempDir {
        let hello = Hello::new("killer");
        let (_, welcome) = Client::connect(&self.socket(), hello, soon()).unwrap();
        self.signal(Signal::KILL);
        self.wait();
        std::fs::remove_file(Path::new("/dev/shm").join(welcome.counters)).unwrap();
        std::mem::replace(&mut self.directory, private_directory())
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
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
        // One that is killed has its mounts aborted, which frees whoever hangs there.
        let status = ended_within(&mut self.child, PATIENCE);
        assert!(
            status.is_some() || std::thread::panicking(),
            "the daemon ends when it is told to"
        );
    }
}

/// Where a process that is started says that it is ready, as to systemd.
pub(crate) struct Ready {
    directory: TempDir,
    socket: UnixDatagram,
}

impl Ready {
    pub(crate) fn new() -> Self {
        let directory = private_directory();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { directory, socket }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    pub(crate) fn wait(&self) {
        let mut state = [0; 64];
        let len = self.socket.recv(&mut state).unwrap();
        assert_eq!(&state[..len], b"READY=1");
    }
}

/// The program, with its socket in `directory`.
pub(crate) fn agentfs(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentfs"));
    command.env("AGENTFS_SOCKET", directory.join("control.sock"));
    // What its branches hold is exported there when it ends.
    command.env("XDG_STATE_HOME", directory.join("state"));
    command
}

/// A daemon in this process, with limits of its own.
pub(crate) fn daemon_with(limits: Limits) -> (Daemon, TempDir) {
    let directory = private_directory();
    let mut config = Config::new(directory.path().join("control.sock"));
    config.limits = limits;
    (Daemon::start(config).unwrap(), directory)
}

pub(crate) fn connect(socket: &Path) -> Client {
    Client::connect(socket, Hello::new("test"), soon())
        .unwrap()
        .0
}

/// The daemon answers this session.
pub(crate) fn assert_answers(client: &mut Client) {
    assert_eq!(client.call(Ping { nonce: 99 }, soon()).unwrap().value, 99);
}

/// A small generator, so that a failure can be repeated: the seed is in the message.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }
}
