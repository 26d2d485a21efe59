//! Checks whether a run in the current directory would be notified of changes by others.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Finding, State};
use crate::common::Common;
use crate::project::connection::DaemonConnection;
use crate::status;
use crate::status::coverage::Coverage;
use agentfs_daemon::filesystem;
use agentfs_daemon::inotify_limit;

/// How long counting directories may take.
const PATIENCE: Duration = Duration::from_secs(3);

const WHAT: &str = "watching this directory";

pub(super) fn look_at(common: &Common) -> Option<Finding> {
    let here = std::env::current_dir().ok()?;
    let here = here.canonicalize().ok()?;
    is_watched(common, &here).or_else(|| would_be_watched(&here))
}

/// Asks the daemon of this directory, if there is one.
fn is_watched(common: &Common, here: &Path) -> Option<Finding> {
    let mut connection = DaemonConnection::look_at_running(common).ok()?;
    let report = status::fetch(&mut connection).ok()?;
    if report.lower.as_path() != here {
        return None;
    }
    let coverage = Coverage(&report);
    Some(match coverage.gap() {
        None => Finding::ok(WHAT, "the daemon watches all directories"),
        Some(gap) => Finding::with(
            WHAT,
            State::Limited,
            gap,
            coverage.way_out().unwrap_or_else(|| {
                "nothing has to be done: it is slower, because everything is looked at again"
                    .to_owned()
            }),
        ),
    })
}

/// Finds out what a daemon would watch here.
fn would_be_watched(here: &Path) -> Option<Finding> {
    let limit = inotify_limit::watches()?;
    let left = limit.saturating_sub(watches_in_use());
    let (count, is_all) = directories(here);
    let kind = filesystem::of(here);
    let found = format!(
        "{}{count} directories on {}, and {left} of {limit} inotify watches are left",
        if is_all { "" } else { "more than " },
        kind.name
    );
    Some(if !kind.is_local {
        Finding::with(
            WHAT,
            State::Limited,
            found,
            "others can change files there without this machine noticing. A run sees such changes as \
             soon as it looks, but no watcher is notified of them; and it is slower, because everything \
             is looked at again. A project on a local filesystem has neither problem",
        )
    } else if count > left {
        Finding::with(
            WHAT,
            State::Limited,
            found,
            format!(
                "a run takes a watch for each directory. In those that get none, changes of others \
                 are seen as soon as somebody looks, but no watcher is notified of them. Allow more with: \
                 {} (as root)",
                inotify_limit::allow_more()
            ),
        )
    } else {
        Finding::ok(WHAT, found)
    })
}

/// Counts the directories. Returns false as well if not all were counted in time.
fn directories(here: &Path) -> (u64, bool) {
    let until = Instant::now() + PATIENCE;
    let mut open = VecDeque::from([here.to_owned()]);
    let mut count = 0;
    while let Some(directory) = open.pop_front() {
        if Instant::now() > until {
            return (count, false);
        }
        count += 1;
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()));
        open.extend(below.map(|entry| entry.path()));
    }
    (count, true)
}

/// Counts the inotify watches of this user, as far as their processes may be looked at
/// (`proc_pid_fdinfo(5)`).
fn watches_in_use() -> u64 {
    let own = rustix::process::geteuid().as_raw();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_own = |entry: &fs::DirEntry| entry.metadata().is_ok_and(|it| it.uid() == own);
    let processes = processes.filter(is_own).map(|entry| entry.path());
    let watches = processes.map(|process| {
        let open = fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let is_inotify = |entry: &fs::DirEntry| {
            let target = fs::read_link(entry.path());
            target.is_ok_and(|it| it.as_os_str() == "anon_inode:inotify")
        };
        let infos = open
            .filter(is_inotify)
            .map(|entry| process.join("fdinfo").join(entry.file_name()));
        let count = |info| {
            let text = fs::read_to_string(info).unwrap_or_default();
            text.lines()
                .filter(|line| line.starts_with("inotify "))
                .count() as u64
        };
        infos.map(count).sum::<u64>()
    });
    watches.sum()
}
