//! A branch on a mount, and the two ways to change it.

use std::convert::Infallible;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use agentfs_testkit::child::{PATIENCE, ended_within};
use agentfs_testkit::daemon::{DaemonProcess, agentfs};

/// How long a trial takes at most.
const TRIAL: Duration = Duration::from_secs(150);
const BRANCH: &str = "work";
/// The folder of the project in the branch. tsc watches no directory that is near to the root.
const PROJECT: &str = "packages/app/src";

/// The side from which a change comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// A program without the library writes on the mount.
    Mount,
    /// `agentfs fs write` makes the change: the kernel does not notice it.
    Outside,
}

/// The daemon is dropped before the folder, and takes the mount away: the folder that is removed is
/// an empty one.
pub(crate) struct MountedBranch {
    _limit: Limit,
    daemon: DaemonProcess,
    point: TempDir,
}

/// Kills the daemon when a trial takes too long. The daemon's mount is aborted then, and every
/// process that hangs there, this one included, goes on with an error.
struct Limit {
    /// The trial is over when this sender is dropped.
    _trial: Sender<Infallible>,
}

impl Limit {
    fn new(daemon: &DaemonProcess) -> Self {
        let (trial, over) = channel();
        let daemon = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw);
        std::thread::spawn(move || {
            if over.recv_timeout(TRIAL) == Err(RecvTimeoutError::Timeout) {
                daemon.map(|it| kill_process(it, Signal::KILL))
            } else {
                None
            }
        });
        Self { _trial: trial }
    }
}

impl MountedBranch {
    pub(crate) fn new() -> io::Result<Self> {
        let daemon = DaemonProcess::start();
        let branch = Self {
            _limit: Limit::new(&daemon),
            daemon,
            point: TempDir::new()?,
        };
        branch.agentfs(&["branch", "create", BRANCH])?;
        let point = branch.point.path().as_os_str();
        branch.succeeds(branch.command().args(["mount", BRANCH]).arg(point), "")?;
        fs::create_dir_all(branch.project())?;
        Ok(branch)
    }

    pub(crate) fn point(&self) -> &Path {
        self.point.path()
    }

    /// Returns the working directory of programs, on the mount.
    pub(crate) fn project(&self) -> PathBuf {
        self.point().join(PROJECT)
    }

    fn command(&self) -> Command {
        let mut command = agentfs(self.daemon.directory.path());
        command.env("XDG_RUNTIME_DIR", self.daemon.directory.path());
        command
    }

    fn succeeds(&self, command: &mut Command, input: &str) -> io::Result<()> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        match ended_within(&mut child, PATIENCE) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(io::Error::other(format!("{command:?}: {status}"))),
            None => Err(io::Error::other(format!("{command:?} does not end"))),
        }
    }

    /// Runs `agentfs` with this daemon, on the branch if the command has that option.
    pub(crate) fn agentfs(&self, arguments: &[&str]) -> io::Result<()> {
        self.succeeds(self.command().args(arguments), "")
    }

    pub(crate) fn snapshot(&self, verb: &str) -> io::Result<()> {
        self.agentfs(&["snapshot", verb, "before", "--branch", BRANCH])
    }

    /// Returns a command that runs in the project and hears of changes in the branch.
    pub(crate) fn exec(&self, words: impl IntoIterator<Item = PathBuf>) -> Command {
        let mut command = self.command();
        command
            .args(["exec", "--branch", BRANCH, "--"])
            .args(words)
            .current_dir(self.project())
            .env_remove("LD_PRELOAD");
        command
    }

    /// Writes a line behind the file's end: open, one write, close.
    pub(crate) fn append(&self, side: Side, file: &str, line: &str) -> io::Result<()> {
        let line = format!("{line}\n");
        match side {
            Side::Mount => OpenOptions::new()
                .append(true)
                .open(self.project().join(file))?
                .write_all(line.as_bytes()),
            Side::Outside => {
                let path = format!("/{PROJECT}/{file}");
                let arguments = ["fs", "write", "--append", "--branch", BRANCH, &path];
                self.succeeds(self.command().args(arguments), &line)
            }
        }
    }
}

impl Drop for MountedBranch {
    fn drop(&mut self) {
        let point = self.point.path().display().to_string();
        // The daemon also takes its mounts away when it ends.
        self.agentfs(&["umount", "--detach", &point]).unwrap_or(());
    }
}

/// Copies a folder with everything in it.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
