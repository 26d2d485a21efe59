//! The lock by which one process at a time applies changes to a directory.
//!
//! The lock is flock(2) on the directory itself. So processes need not know of each other: another
//! daemon, the daemon of another user, or `agentfs apply` without a daemon find the same lock by
//! the directory's inode, whatever the path. No file is left in the project, and the kernel
//! releases the lock when a process dies. A lock file in a user's state directory would be another
//! one for each user.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::model::errno::Errno;
use std::sync::atomic::Ordering;

/// How long this waits for another process. That may hold the lock for a reason of its own, and
/// even wait for this one, as flock(1) around a command does.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to pause between two tries: flock(2) cannot wait for the lock and for a cancellation at
/// once.
const PAUSE: Duration = Duration::from_millis(10);

/// Why the lock was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockError {
    /// The caller cancelled the wait.
    Cancelled,
    /// Another process has had it for a minute.
    Busy,
    /// The directory cannot be opened.
    Host(Errno),
}

/// A guard: while it exists, no other process applies changes to the directory.
#[derive(Debug)]
pub struct ApplyLock(Option<OwnedFd>);

impl ApplyLock {
    /// Waits for the lock. Where the filesystem has no locks, as some network filesystems, this
    /// returns at once. What other processes change meanwhile is then only found path by path.
    ///
    /// # Errors
    ///
    /// [`LockError`].
    pub fn take(directory: impl AsFd, cancelled: &AtomicBool) -> Result<Self, LockError> {
        Self::take_until(directory, cancelled, Self::deadline())
    }

    /// Returns until when [`take`](Self::take) would wait if it were called now.
    pub(crate) fn deadline() -> Instant {
        Instant::now() + PATIENCE
    }

    /// Waits for the lock until a deadline, for a caller that has already waited for something
    /// else.
    pub(crate) fn take_until(
        directory: impl AsFd,
        cancelled: &AtomicBool,
        until: Instant,
    ) -> Result<Self, LockError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The directory is opened only for the lock, which belongs to the open file and ends with
        // it.
        let own = rustix::fs::openat(directory, c".", flags, Mode::empty())
            .map_err(|errno| LockError::Host(errno.into()))?;
        loop {
            match rustix::fs::flock(&own, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(Some(own))),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(errno) => {
                    tracing::warn!(%errno, "the directory cannot be locked while it is written to");
                    return Ok(Self(None));
                }
            }
            if cancelled.load(Ordering::Relaxed) {
                return Err(LockError::Cancelled);
            }
            if Instant::now() >= until {
                return Err(LockError::Busy);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for ApplyLock {
    fn drop(&mut self) {
        if let Some(own) = &self.0 {
            // Closing is not enough: a child that was forked meanwhile has the directory open for a
            // moment, too.
            let _ = rustix::fs::flock(own, FlockOperation::Unlock);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_long_enough_for_a_turn_does_not_wait_for_the_lock_as_well() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = std::fs::File::open(directory.path()).expect("the directory");
        let never = AtomicBool::new(false);
        let alone = ApplyLock::take(&directory, &never).expect("the lock");
        let late = ApplyLock::take_until(&directory, &never, Instant::now());
        assert_eq!(late.err(), Some(LockError::Busy));
        drop(alone);
        let free = ApplyLock::take_until(&directory, &never, Instant::now());
        assert!(
            free.is_ok(),
            "a lock that is free is taken, however late it is"
        );
    }
}
