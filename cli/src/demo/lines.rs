//! What a command prints, line by line as it comes.

use std::io::{self, PipeReader, Read as _};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The lines of a pipe that are not taken yet.
#[derive(Debug)]
pub(super) struct Lines {
    pipe: PipeReader,
    unread: Vec<u8>,
    is_at_end: bool,
}

/// What there is next.
#[derive(Debug)]
pub(super) enum Next {
    Line(String),
    /// No process can write any more.
    End,
    /// A signal came first.
    Interrupted,
    /// The time has passed.
    Late,
}

impl Lines {
    pub(super) fn new(pipe: PipeReader) -> Self {
        Self {
            pipe,
            unread: Vec::new(),
            is_at_end: false,
        }
    }

    /// Waits for the next line; `signal` is readable when a signal has come.
    pub(super) fn next(&mut self, signal: Option<&UnixStream>, until: Instant) -> io::Result<Next> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Next::Line(line));
            }
            if self.is_at_end {
                return Ok(Next::End);
            }
            let mut ready = vec![PollFd::new(&self.pipe, PollFlags::IN)];
            ready.extend(signal.map(|it| PollFd::new(it, PollFlags::IN)));
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            if rustix::io::retry_on_intr(|| poll(&mut ready, left.as_ref()))? == 0 {
                return Ok(Next::Late);
            }
            if ready.get(1).is_some_and(|it| !it.revents().is_empty()) {
                return Ok(Next::Interrupted);
            }
            let mut bytes = [0; 4096];
            let len = self.pipe.read(&mut bytes)?;
            self.is_at_end = len == 0;
            self.unread.extend(bytes.iter().take(len));
        }
    }

    /// Takes a whole line; at the end of the pipe also one without a line feed.
    fn take(&mut self) -> Option<String> {
        let end = self.unread.iter().position(|byte| *byte == b'\n');
        let len = match end {
            Some(at) => at + 1,
            None if self.is_at_end && !self.unread.is_empty() => self.unread.len(),
            None => return None,
        };
        let line: Vec<u8> = self.unread.drain(..len).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}
