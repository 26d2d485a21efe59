//! Watchers as the harness sees them: child processes, the libraries that are preloaded, the lines
//! they say.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use agentfs_testkit::child::ended_within;
use agentfs_testkit::program::forward_lines;

use crate::model::Failure;
use crate::stage::Place;
use crate::watcher::{Api, Reader};

/// How long a program may stay silent before the run fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// This program again, in a process that takes lines and says lines. It is killed when this is
/// dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

/// A running watcher.
#[derive(Debug)]
pub(crate) struct Program(Process);

/// What a watcher is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task<'a> {
    pub(crate) api: Api,
    pub(crate) reader: Reader,
    /// The directory, as the stage names it.
    pub(crate) directory: &'a str,
    pub(crate) files: u32,
    /// An answer for each event.
    pub(crate) each: bool,
}

/// A library that cargo built with this program.
pub(crate) fn library(name: &str) -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("."));
    let places = [beside.to_owned(), beside.join("deps")];
    let found = places
        .iter()
        .map(|it| it.join(name))
        .find(|it| it.is_file());
    found.ok_or_else(|| {
        format!(
            "{name} is neither beside {} nor in deps/ there: run this program from its target \
             directory, where cargo puts both",
            program.display()
        )
        .into()
    })
}

fn preload(api: Api) -> Result<Option<String>, Failure> {
    let shim = || library("libagentfs_interpose_shim.so");
    Ok(match api {
        Api::Native | Api::Eventfd => None,
        Api::Inotify => Some(shim()?.display().to_string()),
        Api::Kqueue => {
            let kqueue = library("libagentfs_testkq_preload.so")?;
            Some(format!("{}:{}", shim()?.display(), kqueue.display()))
        }
    })
}

/// As the command line names it.
fn named(value: &impl clap::ValueEnum) -> String {
    let named = value.to_possible_value();
    named.map_or_else(String::new, |it| it.get_name().to_owned())
}

impl Program {
    /// Starts a watcher, and waits until it watches.
    pub(crate) fn start(place: &Place, task: Task<'_>) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("watch")
            .args(["--api", &named(&task.api)])
            .args(["--reader", &named(&task.reader)])
            .args(["--files", &task.files.to_string()])
            .arg("--root")
            .arg(place.seen_as(task.directory))
            .args(task.each.then_some("--each"));
        if let Some(socket) = place.socket() {
            command.arg("--socket").arg(socket);
            command.env("AGENTFS_SOCKET", socket);
            if let Some(libraries) = preload(task.api)? {
                command.env("LD_PRELOAD", libraries);
            }
        }
        Self::ready(command)
    }

    /// Starts a program that waits for an eventfd and nothing else.
    pub(crate) fn on_eventfd(bell: OwnedFd, reader: Reader) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args([
                "watch", "--api", "eventfd", "--root", "/", "--files", "0", "--each",
            ])
            .args(["--reader", &named(&reader)])
            .stderr(bell);
        Self::ready(command)
    }

    fn ready(command: Command) -> Result<Self, Failure> {
        let program = Self(Process::start(command)?);
        match program.0.answer()?.as_str() {
            "ready" => Ok(program),
            other => Err(format!("a watcher did not get ready: {other}").into()),
        }
    }

    /// Gives the next command.
    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        self.0.say("")
    }

    /// The next line, or `None` when none comes in time.
    pub(crate) fn line(&self, patience: Duration) -> Result<Option<String>, Failure> {
        self.0.line(patience)
    }

    /// The next line.
    pub(crate) fn answer(&self) -> Result<String, Failure> {
        self.0.answer()
    }
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Result<Self, Failure> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let (sender, lines) = channel();
        forward_lines(stdout, sender);
        Ok(Self {
            child,
            stdin,
            lines,
        })
    }

    /// Gives it a line.
    pub(crate) fn say(&mut self, line: &str) -> Result<(), Failure> {
        let stdin = self.stdin.as_mut().ok_or("its input has ended")?;
        Ok(stdin.write_all(format!("{line}\n").as_bytes())?)
    }

    /// The next line, or `None` when none comes in time.
    fn line(&self, patience: Duration) -> Result<Option<String>, Failure> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("a process ended early".into()),
        }
    }

    /// The next line.
    pub(crate) fn answer(&self) -> Result<String, Failure> {
        let line = self.line(PATIENCE)?;
        line.ok_or_else(|| format!("a process was silent for {PATIENCE:?}").into())
    }

    /// Kills it, at once. One that sleeps in the kernel for a daemon that does not answer cannot end
    /// before that daemon does; it is not waited for.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        let _status = ended_within(&mut self.child, Duration::from_secs(10));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
