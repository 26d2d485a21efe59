//! A program that runs, and the lines it prints.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// A program in a process group of its own, which is killed with everything it started.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (sender, lines) = channel();
        if let Some(stream) = child.stdout.take() {
            forward(stream, sender.clone());
        }
        if let Some(stream) = child.stderr.take() {
            forward(stream, sender);
        }
        Ok(Self { child, lines })
    }

    /// The next line of its output or its errors, unless it says nothing for so long or ends.
    pub(crate) fn line(&self, patience: Duration) -> Result<String, RecvTimeoutError> {
        self.lines.recv_timeout(patience)
    }

    /// Reads up to a line with this in it; gives all lines, and whether it came.
    pub(crate) fn until(&self, wanted: &str, patience: Duration) -> (Vec<String>, bool) {
        let end = Instant::now() + patience;
        let mut lines = Vec::new();
        while let Ok(line) = self.line(end.saturating_duration_since(Instant::now())) {
            let found = line.contains(wanted);
            lines.push(line);
            if found {
                return (lines, true);
            }
        }
        (lines, false)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not there any more is fine, too.
        kill_process_group(Pid::from_child(&self.child), Signal::KILL).unwrap_or(());
        drop(self.child.wait());
    }
}

fn forward(stream: impl Read + Send + 'static, sender: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
}
