//! Up to when the changes of the host were emitted, for a daemon that comes after one that was killed.
//!
//! The moment is the modification time of a file in the store. It is noted when the host has been quiet
//! for a while, so that the last change which was emitted is clearly older.

use std::fs::{File, FileTimes};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

/// How much older than the clock the time of a change may be: filesystems take it from the last tick.
const GRAIN: Duration = Duration::from_millis(20);

/// The name of the file in a store.
const NAME: &str = "host-seen";

/// The file.
#[derive(Debug)]
pub(crate) struct Seen {
    file: File,
    /// Whether everything before is emitted, so that later moments may be noted.
    has_begun: AtomicBool,
}

impl Seen {
    /// Opens the file in a store.
    pub(crate) fn open(store: &Path) -> io::Result<Self> {
        let mut options = File::options();
        let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
        options.write(true).create(true).truncate(false);
        options.mode(0o600).custom_flags(nofollow);
        Ok(Self {
            file: options.open(store.join(NAME))?,
            has_begun: AtomicBool::new(false),
        })
    }

    /// Returns from when on changes of the host may not have been emitted; `None` if that is not known.
    pub(crate) fn missed_since(&self) -> Option<SystemTime> {
        self.file
            .metadata()
            .ok()?
            .modified()
            .ok()?
            .checked_sub(GRAIN)
    }

    /// Notes that everything up to this moment is emitted, and begins to take later ones.
    pub(crate) fn begin(&self, at: SystemTime) {
        self.has_begun.store(true, Ordering::Relaxed);
        self.note(at);
    }

    /// Notes that everything up to this moment is emitted.
    pub(crate) fn note(&self, at: SystemTime) {
        if !self.has_begun.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.file.set_times(FileTimes::new().set_modified(at)) {
            tracing::debug!(%error, "the next daemon takes changes of the host for new ones");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_kept_for_the_next_daemon_once_the_ones_before_are_emitted() {
        let store = tempfile::tempdir().unwrap();
        let moment = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let seen = Seen::open(store.path()).unwrap();
        seen.begin(moment(1000));
        seen.note(moment(2000));
        let next = Seen::open(store.path()).unwrap();
        let since = next.missed_since().unwrap();
        assert!(since < moment(2000) && since > moment(1999));
        next.note(moment(3000));
        assert_eq!(next.missed_since(), Some(since), "it has not begun");
        next.begin(moment(4000));
        assert!(next.missed_since().unwrap() > moment(3999));
    }
}
