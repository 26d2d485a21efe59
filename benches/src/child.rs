//! This program again, in a process of its own: it takes lines and answers with lines.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::Failure;
use crate::process_pair::now;

/// How long a program may be silent before the run fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The line by which a program announces that it is about to wait.
pub(crate) const WAITING: &str = "waiting";

/// This program again. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

/// Returns the path of a library that cargo built with this program.
pub(crate) fn library(name: &str) -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("."));
    // What was built last is in deps; a copy beside the program may be older.
    let places = [beside.join("deps"), beside.to_owned()];
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

/// Returns the command that starts this program again.
pub(crate) fn this_program() -> Result<Command, Failure> {
    Ok(Command::new(std::env::current_exe()?))
}

impl Process {
    /// Starts a program with pipes for its lines.
    pub(crate) fn start(mut command: Command) -> Result<Self, Failure> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("no standard output")?;
        Ok(Self {
            child,
            stdin,
            lines: lines_of(stdout),
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a line.
    pub(crate) fn say(&mut self, line: &str) -> Result<(), Failure> {
        let stdin = self.stdin.as_mut().ok_or("its input has ended")?;
        Ok(stdin.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Returns the next line, or `None` when none comes in time.
    pub(crate) fn line(&self, patience: Duration) -> Result<Option<String>, Failure> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("a process ended early".into()),
        }
    }

    /// Returns the next line.
    pub(crate) fn answer(&self) -> Result<String, Failure> {
        let line = self.line(PATIENCE)?;
        line.ok_or_else(|| format!("a process was silent for {PATIENCE:?}").into())
    }

    /// Returns all lines that are left, when the process has ended.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.lines.iter().collect()
    }

    /// Wakes the process, which waits for something, and returns the nanoseconds from the start of
    /// `wake` to the return of the process's call.
    pub(crate) fn woken(
        &mut self,
        wake: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        self.say("")?;
        match self.answer()?.as_str() {
            WAITING => {}
            other => return Err(format!("a process does not wait: {other}").into()),
        }
        fall_asleep();
        let start = now();
        wake()?;
        let woken: u64 = self.answer()?.parse()?;
        Ok(woken.saturating_sub(start).max(1))
    }

    /// Kills it, at once. One that sleeps in the kernel for a daemon that does not answer cannot end
    /// before that daemon does; it is not waited for.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.wait(Duration::from_secs(10)));
    }

    /// Returns how it ended, or `None` when it does not end in time.
    fn wait(&mut self, patience: Duration) -> Result<Option<ExitStatus>, Failure> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(Some(status));
        }
        let pid = Pid::from_child(&self.child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let timeout = PollTimeout::try_from(patience)?;
        poll(
            &mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)],
            timeout,
        )?;
        Ok(self.child.try_wait()?)
    }
}

/// Lets time pass in which a reader falls asleep, which no event announces.
///
/// Too little would show as a quicker wake-up, never as a lost one.
pub(crate) fn fall_asleep() {
    std::thread::sleep(Duration::from_micros(200));
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
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
