//! A program that runs, and the lines it prints.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use agentfs_testkit::child::{PATIENCE, ended_within};
use agentfs_testkit::program::forward_lines;
use rustix::process::{Pid, Signal, kill_process_group};

/// How long the end of a killed program takes at most, unless the program hangs in the kernel.
const KILLED: Duration = Duration::from_secs(5);

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
            forward_lines(stream, sender.clone());
        }
        if let Some(stream) = child.stderr.take() {
            forward_lines(stream, sender);
        }
        Ok(Self { child, lines })
    }

    /// Reads the lines of the program's output and of its errors that count, up to the one that is
    /// wanted. Returns the lines, and whether that one came in time.
    pub(crate) fn until(
        &self,
        counts: impl Fn(&str) -> bool,
        is_wanted: impl Fn(&str) -> bool,
    ) -> (Vec<String>, bool) {
        let end = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                // A program that never stops printing is not waited for longer than a silent one.
                Ok(_) if left.is_zero() => return (lines, false),
                Ok(line) if counts(&line) => {
                    let found = is_wanted(&line);
                    lines.push(line);
                    if found {
                        return (lines, true);
                    }
                }
                Ok(_) => {}
                Err(_) => return (lines, false),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A program that is not there any more is fine, too.
        kill_process_group(Pid::from_child(&self.child), Signal::KILL).unwrap_or(());
        // A program that hangs in the mount does not end before the mount does.
        let _status = ended_within(&mut self.child, KILLED);
    }
}
