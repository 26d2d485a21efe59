//! Starts programs under test and reads what they print.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use agentfs_testkit::child::{PATIENCE, ended_within};

/// The variable that leaves out, loudly, what needs /dev/fuse.
const SKIP: &str = "AGENTFS_SKIP_FUSE_TESTS";

/// Returns whether mounting works here. If not, the test fails, unless [`SKIP`] is set.
pub(crate) fn can_mount() -> bool {
    let Err(error) = agentfs_mount::check_device() else {
        return true;
    };
    assert!(
        std::env::var_os(SKIP).is_some(),
        "mounts cannot be tested here: {error}; or set {SKIP}=1 to leave them out"
    );
    false
}

/// A running program whose lines are read as they come.
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let lines = lines_of(child.stdout.take().unwrap());
        let errors = lines_of(child.stderr.take().unwrap());
        Self {
            child,
            stdin,
            lines,
            errors,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line of its output.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }

    /// Waits for a line with this in it; others may come before.
    #[track_caller]
    pub(crate) fn expect(&self, wanted: &str) {
        self.wait_for(wanted);
    }

    /// Waits as [`expect`](Self::expect) does, and returns the line.
    #[track_caller]
    pub(crate) fn wait_for(&self, wanted: &str) -> String {
        until(&self.lines, wanted)
    }

    pub(crate) fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    pub(crate) fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Waits for an error text with this in it.
    #[track_caller]
    pub(crate) fn complains(&self, wanted: &str) {
        until(&self.errors, wanted);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends its input and waits for its end. Returns its status and what it printed meanwhile, output and
    /// errors.
    pub(crate) fn finish(&mut self) -> (ExitStatus, String, String) {
        self.stdin = None;
        let status = ended_within(&mut self.child, PATIENCE);
        let (out, err) = (rest(&self.lines), rest(&self.errors));
        let status = status.unwrap_or_else(|| panic!("no end in time, but {out:?} and {err:?}"));
        (status, out, err)
    }
}

/// Reads all lines until the end of the stream.
fn rest(lines: &Receiver<String>) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut text = String::new();
    while let Some(line) = next(lines, deadline) {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            self.stdin = None;
            let status = ended_within(&mut self.child, PATIENCE);
            assert!(
                status.is_some() || std::thread::panicking(),
                "a program ends when it is told to"
            );
        }
    }
}

/// Reads the next line. Returns `None` when none comes in time, or at the end.
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

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
