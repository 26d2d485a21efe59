//! Programs under test, which read lines and print lines.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::child::{PATIENCE, ended_within};

/// A running program whose lines are read as they come.
///
/// A program that is dropped gets SIGTERM, and must end then.
pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Program {
    /// Starts a program, and reads its output and its errors.
    pub fn start(command: &mut Command) -> Self {
        Self::spawn(command.stderr(Stdio::piped()))
    }

    /// Starts a program, and reads its output; its errors go where those of the test go.
    pub fn start_showing_errors(command: &mut Command) -> Self {
        Self::spawn(command)
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let lines = lines_of(child.stdout.take().unwrap());
        // Without errors to read the channel is closed at once.
        let errors = child.stderr.take().map_or_else(|| channel().1, lines_of);
        Self {
            child,
            stdin,
            lines,
            errors,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the next line of its output.
    #[track_caller]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }

    /// Returns the next line of its output; `None` when none comes in time, or no more.
    pub fn line_within(&self, patience: Duration) -> Option<String> {
        self.lines.recv_timeout(patience).ok()
    }

    /// Waits for a line with this text in it; others may come before.
    #[track_caller]
    pub fn expect(&self, wanted: &str) {
        self.wait_for(wanted);
    }

    /// Does as [`expect`](Self::expect), and returns the line.
    #[track_caller]
    pub fn wait_for(&self, wanted: &str) -> String {
        until(&self.lines, wanted)
    }

    /// Writes a line to its input.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Waits for a line of the program's errors with this text in it.
    #[track_caller]
    pub fn complains(&self, wanted: &str) {
        until(&self.errors, wanted);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills the program, and waits for its end unless it hangs in the kernel.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        let _status = ended_within(&mut self.child, PATIENCE);
    }

    /// Ends the program's input and waits for its end; returns its status, and the rest of its
    /// output and of its errors.
    #[track_caller]
    pub fn finish(&mut self) -> (ExitStatus, String, String) {
        self.stdin = None;
        let status = ended_within(&mut self.child, PATIENCE);
        let (out, err) = (rest(&self.lines), rest(&self.errors));
        let status = status.unwrap_or_else(|| panic!("no end in time, but {out:?} and {err:?}"));
        (status, out, err)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            self.stdin = None;
            let status = ended_within(&mut self.child, PATIENCE);
            assert!(
                status.is_some() || std::thread::panicking(),
                "a program ends at SIGTERM"
            );
        }
    }
}

/// Sends the lines of a stream as they come, until the stream ends or the receiver is gone.
pub fn forward_lines(stream: impl Read + Send + 'static, sender: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    forward_lines(stream, sender);
    receiver
}

/// Returns the lines that come until the stream ends.
fn rest(lines: &Receiver<String>) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut text = String::new();
    while let Some(line) = next(lines, deadline) {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// Returns the next line; `None` when there is none in time, or no more.
fn next(lines: &Receiver<String>, deadline: Instant) -> Option<String> {
    let left = deadline.checked_duration_since(Instant::now())?;
    lines.recv_timeout(left).ok()
}

#[track_caller]
fn until(lines: &Receiver<String>, wanted: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while let Some(line) = next(lines, deadline) {
        if line.contains(wanted) {
            return line;
        }
        seen.push(line);
    }
    panic!("{wanted:?} in time, and not only {seen:#?}");
}
