//! Runs the commands of the demo, and shows each with what it prints.

use std::fmt;
use std::io;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::lines::{Lines, Next};
use super::workspace::{PATIENCE, ReadySocket, Workspace};
use crate::output::Output;
use crate::output::failure::Failure;

/// How long one step may take, also on a machine that has much else to do.
const STEP: Duration = Duration::from_secs(60);

/// Runs commands in the demo's project.
pub(super) struct Shell<'a> {
    workspace: &'a Workspace,
    output: &'a mut Output,
    /// Readable when the demo is to end.
    signal: UnixStream,
    steps: u32,
}

/// A command that runs beside the others. It ends with this value.
#[derive(Debug)]
pub(super) struct Background {
    child: Child,
    lines: Lines,
    words: String,
}

/// Returns a stream that is readable as soon as a signal has come that is to end the demo. From then on,
/// no such signal ends this process by itself.
pub(super) fn signals() -> Result<UnixStream, Failure> {
    let (signal, write) = UnixStream::pair().map_err(Failure::Input)?;
    for number in [SIGINT, SIGTERM, SIGHUP] {
        let write = write.try_clone().map_err(Failure::Input)?;
        signal_hook::low_level::pipe::register(number, write).map_err(Failure::Input)?;
    }
    Ok(signal)
}

impl<'a> Shell<'a> {
    /// Returns a shell that ends what it waits for when `signal` is readable.
    pub(super) fn new(
        workspace: &'a Workspace,
        output: &'a mut Output,
        signal: UnixStream,
    ) -> Self {
        Self {
            workspace,
            output,
            signal,
            steps: 0,
        }
    }

    /// Prints a line of explanation.
    pub(super) fn say(&mut self, text: impl fmt::Display) -> Result<(), Failure> {
        self.output.line(text)?;
        self.output.flush().map_err(Failure::Output)
    }

    /// Prints the heading of the next step.
    pub(super) fn step(&mut self, text: impl fmt::Display) -> Result<(), Failure> {
        self.steps += 1;
        let number = self.steps;
        self.say(format_args!("\n{number}. {text}"))
    }

    /// Runs a command to its end, which must be a success.
    pub(super) fn run(&mut self, words: &str) -> Result<(), Failure> {
        self.say(format_args!("   $ {words}"))?;
        let mut command = self.spawn(words, |_| {})?;
        self.print_rest(&mut command)?;
        command.require_success()
    }

    /// Runs a command without showing it. Returns the last line that it printed if it failed.
    pub(super) fn try_quietly(&mut self, words: &str) -> Result<Option<String>, Failure> {
        let mut command = self.spawn(words, |_| {})?;
        let mut last = String::new();
        while let Some(line) = self.next_line(&mut command)? {
            last = line;
        }
        let status = command.child.wait().map_err(Failure::Input)?;
        let why = last.strip_prefix("agentfs: ").unwrap_or(&last).to_owned();
        Ok((!status.success()).then_some(why))
    }

    /// Starts a command beside the others.
    pub(super) fn start(&mut self, words: &str) -> Result<Background, Failure> {
        self.say(format_args!("   $ {words} &"))?;
        self.spawn(words, |_| {})
    }

    /// Starts a daemon beside the others and waits until it listens. What it logs is not shown.
    pub(super) fn start_daemon(
        &mut self,
        words: &str,
        ready: &ReadySocket,
    ) -> Result<Background, Failure> {
        self.say(format_args!("   $ {words} &"))?;
        let mut daemon = self.spawn(words, |command| {
            command.env("NOTIFY_SOCKET", &ready.path);
        })?;
        if self.is_told(&ready.socket)? {
            return Ok(daemon);
        }
        // It has ended: it says why.
        self.print_rest(&mut daemon)?;
        Err(Failure::Other(format!("{words} did not start")))
    }

    /// Waits until the daemon has said that it is ready. False when nothing comes in time.
    fn is_told(&self, socket: &UnixDatagram) -> Result<bool, Failure> {
        let mut ready = [
            PollFd::new(&self.signal, PollFlags::IN),
            PollFd::new(socket, PollFlags::IN),
        ];
        let time = Timespec::try_from(STEP).ok();
        let polled = rustix::io::retry_on_intr(|| poll(&mut ready, time.as_ref()));
        polled.map_err(|errno| Failure::Input(errno.into()))?;
        let [signal, told] = &ready;
        if !signal.revents().is_empty() {
            return Err(interrupted());
        }
        Ok(!told.revents().is_empty())
    }

    /// Prints what a command says, up to a line with this in it.
    pub(super) fn wait_for(
        &mut self,
        command: &mut Background,
        prefix: &str,
        wanted: &str,
    ) -> Result<(), Failure> {
        while let Some(line) = self.next_line(command)? {
            self.say(format_args!("   {prefix}{line}"))?;
            if line.contains(wanted) {
                return Ok(());
            }
        }
        let words = &command.words;
        Err(Failure::Other(format!(
            "{words} ended before it said: {wanted}"
        )))
    }

    /// Ends a command as Ctrl-C on its terminal does, and prints the rest of what it says.
    pub(super) fn interrupt(&mut self, mut command: Background) -> Result<(), Failure> {
        self.say("   ^C")?;
        command.signal(Signal::INT);
        self.print_rest(&mut command)
    }

    fn print_rest(&mut self, command: &mut Background) -> Result<(), Failure> {
        while let Some(line) = self.next_line(command)? {
            self.say(format_args!("   {line}"))?;
        }
        Ok(())
    }

    fn next_line(&self, command: &mut Background) -> Result<Option<String>, Failure> {
        let until = Instant::now() + STEP;
        match command.lines.next(Some(&self.signal), until) {
            Ok(Next::Line(line)) => Ok(Some(line)),
            Ok(Next::End) => Ok(None),
            Ok(Next::Interrupted) => Err(interrupted()),
            Ok(Next::Late) => Err(Failure::Other(format!(
                "{} says nothing for {} seconds, so the demo ends here",
                command.words,
                STEP.as_secs()
            ))),
            Err(error) => Err(Failure::Input(error)),
        }
    }

    /// Starts what a shell makes of these words, in a process group of its own: Ctrl-C ends the demo,
    /// and the demo ends the commands.
    fn spawn(
        &self,
        words: &str,
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Background, Failure> {
        let failed = |error: io::Error| Failure::Other(format!("{words}: {error}"));
        let (pipe, write) = io::pipe().map_err(failed)?;
        let mut command = self.workspace.command("sh");
        command
            .args(["-c", words])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(write.try_clone().map_err(failed)?)
            .stderr(write);
        prepare(&mut command);
        Ok(Background {
            child: command.spawn().map_err(failed)?,
            lines: Lines::new(pipe),
            words: words.to_owned(),
        })
    }
}

fn interrupted() -> Failure {
    Failure::Other("the demo was interrupted".to_owned())
}

impl Background {
    /// Sends a signal to the command and what it started.
    fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process_group(Pid::from_child(&self.child), signal) {
            tracing::debug!(%error, "the command has ended");
        }
    }

    fn require_success(mut self) -> Result<(), Failure> {
        let status = self.child.wait().map_err(Failure::Input)?;
        if status.success() {
            return Ok(());
        }
        let words = &self.words;
        Err(Failure::Other(format!("{words} failed: {status}")))
    }

    /// Waits until no process has the pipe any more.
    fn has_ended_within(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            match self.lines.next(None, until) {
                Ok(Next::Line(_)) => {}
                Ok(Next::End) => return true,
                Ok(Next::Interrupted | Next::Late) | Err(_) => return false,
            }
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(Signal::TERM);
        if !self.has_ended_within(PATIENCE) {
            self.signal(Signal::KILL);
        }
        if let Err(error) = self.child.wait() {
            tracing::debug!(%error, "the command cannot be waited for");
        }
    }
}
