//! Starts the next server when one was killed.
//!
//! The mounts of one server have a keeper each, and one server takes all of them. So a lock in the
//! directory of the sockets sees to it that one keeper at a time starts a server. The locked file has the
//! moments of the last starts, because a server that is killed again by what it does first would
//! otherwise be started without end.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use super::process::through;

/// The pause between two looks whether a server is to be started.
const PAUSE: Duration = Duration::from_millis(500);
/// How many servers are started within [`WINDOW`].
const MOST: usize = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// The file with the moments of the last starts.
const STARTS: &str = "starts";
/// The standard error of the servers that are started.
const LOG: &str = "restarted.log";

/// The attempts to have a server, of one keeper, since the last server was gone.
#[derive(Debug)]
pub(super) struct Successor<'a> {
    /// The program of the server and its arguments. There may be none.
    command: &'a [OsString],
    directory: &'a OwnedFd,
    started: Option<Started>,
    next_look: Option<Instant>,
}

/// A server that this keeper has started.
#[derive(Debug)]
struct Started {
    server: Child,
    /// Keeps others from starting one as long as it is open.
    _starts: File,
}

impl<'a> Successor<'a> {
    pub(super) fn new(command: &'a [OsString], directory: &'a OwnedFd) -> Self {
        Self {
            command,
            directory,
            started: None,
            next_look: (!command.is_empty()).then(Instant::now),
        }
    }

    /// Returns when [`look`](Self::look) is to be called next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// Starts a server, if it is time for that and none is about to come.
    pub(super) fn look(&mut self) {
        if self.next_look.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.next_look = Some(Instant::now() + PAUSE);
        if let Some(started) = &mut self.started {
            if matches!(started.server.try_wait(), Ok(None)) {
                return;
            }
            self.started = None;
        }
        match self.start() {
            Ok(started) => self.started = started,
            Err(error) => tracing::debug!(%error, "no server can be started"),
        }
    }

    /// Starts a server, unless another keeper does or there were too many.
    fn start(&self) -> io::Result<Option<Started>> {
        let [program, arguments @ ..] = self.command else {
            return Ok(None);
        };
        let mut starts = self.open(File::options().read(true).write(true), STARTS)?;
        if starts.try_lock().is_err() {
            return Ok(None);
        }
        if !note_start(&mut starts, now())? {
            return Ok(None);
        }
        let log = self.open(File::options().append(true), LOG)?;
        let server = Command::new(program)
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()?;
        Ok(Some(Started {
            server,
            _starts: starts,
        }))
    }

    fn open(&self, options: &mut std::fs::OpenOptions, name: &str) -> io::Result<File> {
        let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
        options
            .create(true)
            .mode(0o600)
            .custom_flags(nofollow)
            .open(through(self.directory, OsStr::new(name)))
    }
}

/// Returns the time of day, which outlives the keepers.
fn now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

/// Writes down that a server is started now. Returns false if there were too many of late.
fn note_start(starts: &mut File, now: Duration) -> io::Result<bool> {
    let mut before = Vec::new();
    starts.read_to_end(&mut before)?;
    let before = String::from_utf8_lossy(&before);
    let parsed = before.lines().filter_map(|line| line.parse().ok());
    // A clock that was put back does not keep servers from being started for long.
    let is_late = |at: &u64| now.abs_diff(Duration::from_secs(*at)) < WINDOW;
    let mut late: Vec<u64> = parsed.filter(is_late).collect();
    if late.len() >= MOST {
        return Ok(false);
    }
    late.push(now.as_secs());
    let text: String = late.iter().map(|at| format!("{at}\n")).collect();
    starts.set_len(0)?;
    starts.rewind()?;
    starts.write_all(text.as_bytes())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_started_so_often_within_a_minute_and_no_more() {
        let mut starts = tempfile::tempfile().unwrap();
        let mut note = |seconds| {
            starts.rewind().unwrap();
            note_start(&mut starts, Duration::from_secs(seconds)).unwrap()
        };
        for count in 0..MOST as u64 {
            assert!(note(1000 + count), "start {count}");
        }
        assert!(!note(1010));
        assert!(!note(1059));
        // The first one is long ago by now.
        assert!(note(1060));
        assert!(!note(1060));
    }

    #[test]
    fn one_keeper_at_a_time_starts_a_server() {
        let dir = tempfile::tempdir().unwrap();
        let directory = OwnedFd::from(File::open(dir.path()).unwrap());
        let command = ["sh", "-c", "echo started >&2"].map(OsString::from);
        let mut first = Successor::new(&command, &directory);
        let second = Successor::new(&command, &directory);
        first.look();
        assert!(second.start().unwrap().is_none());
        let started = first.started.as_mut().unwrap();
        assert!(started.server.wait().unwrap().success());
        let log = std::fs::read_to_string(dir.path().join(LOG)).unwrap();
        assert_eq!(log, "started\n");
        drop(first);
        let mut started = second.start().unwrap().unwrap();
        assert!(started.server.wait().unwrap().success());
    }

    #[test]
    fn without_a_command_nothing_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let directory = OwnedFd::from(File::open(dir.path()).unwrap());
        let mut none = Successor::new(&[], &directory);
        none.look();
        assert_eq!(none.next_look(), None);
        assert!(none.start().unwrap().is_none());
        assert!(!dir.path().join(STARTS).exists());
    }
}
