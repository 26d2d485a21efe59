//! Files that one process has locked at a time (flock(2)), and what becomes of the locks of a process that was
//! killed and does not end.
//!
//! A thread of a daemon can wait in the kernel for the lock of an inode, which a program on a mount holds until
//! the daemon answers its request. When the daemon is killed, that thread ends only when the *next* daemon
//! answers the request. Until then the kernel keeps the files of the process open, and with them its locks,
//! although none of its threads will ever run program code again. The next daemon must not wait for them. So
//! it looks at the threads of the process that has the lock, and takes the lock's place when all of them are
//! gone or about to end.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod platform;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

pub use self::platform::is_ending;

/// How long what a thread of such a process still does in the kernel may take, such as a write.
const GRACE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
const FLAGS: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Opens and locks a file for this process, and creates it if it is not there. Returns `None` if another
/// process has it locked, unless that one was killed and only its end is outstanding: such a process loses the
/// name.
///
/// # Errors
///
/// Those of opening and locking. `InvalidInput` if the path has no last name.
pub fn lock_file(path: &Path) -> io::Result<Option<File>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    Ok(lock_in(directory.as_fd(), Path::new(name))?.map(File::from))
}

/// Locks a file in a directory as [`lock_file`] does.
pub(crate) fn lock_in(directory: BorrowedFd<'_>, name: &Path) -> Result<Option<OwnedFd>, Errno> {
    loop {
        let flags = FLAGS | OFlags::CREATE;
        let file = retry_on_intr(|| rustix::fs::openat(directory, name, flags, MODE))?;
        if try_lock(&file)? {
            if has_name(&file, directory, name)? {
                return Ok(Some(file));
            }
            // Another process took the name away from one that was ending.
            continue;
        }
        if !is_left_behind(&file)? {
            return Ok(None);
        }
        take_name_away(directory, name)?;
    }
}

/// Returns whether a file is locked by nobody but processes that were killed and are ending. Waits until they
/// can do nothing more.
pub(crate) fn is_left_behind(file: &OwnedFd) -> Result<bool, Errno> {
    let inode = rustix::fs::fstat(file)?.st_ino;
    let until = Instant::now() + GRACE;
    while platform::is_held_by_ending(inode) {
        if Instant::now() >= until {
            return Ok(true);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(false)
}

/// Removes the name of a file whose lock was left behind, so that a new file can have it.
fn take_name_away(directory: BorrowedFd<'_>, name: &Path) -> Result<(), Errno> {
    // One process at a time looks again, and takes the name away.
    retry_on_intr(|| rustix::fs::flock(directory, FlockOperation::LockExclusive))?;
    let taken = match retry_on_intr(|| rustix::fs::openat(directory, name, FLAGS, MODE)) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
        Ok(file) => try_lock(&file).and_then(|is_free| {
            if is_free || !is_left_behind(&file)? {
                return Ok(());
            }
            rustix::fs::unlinkat(directory, name, AtFlags::empty())
        }),
    };
    retry_on_intr(|| rustix::fs::flock(directory, FlockOperation::Unlock))?;
    taken
}

fn try_lock(file: &OwnedFd) -> Result<bool, Errno> {
    match retry_on_intr(|| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn has_name(file: &OwnedFd, directory: BorrowedFd<'_>, name: &Path) -> Result<bool, Errno> {
    let own = rustix::fs::fstat(file)?;
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_locked_by_one_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = lock_file(&path).unwrap().unwrap();
        // This process lives, so its lock is not left behind.
        assert!(lock_file(&path).unwrap().is_none());
        drop(first);
        assert!(lock_file(&path).unwrap().is_some());
    }

    #[test]
    fn name_of_a_file_that_a_living_process_has_locked_is_not_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock_file(&path).unwrap().unwrap();
        let directory = OwnedFd::from(File::open(dir.path()).unwrap());
        take_name_away(directory.as_fd(), Path::new("lock")).unwrap();
        let held = OwnedFd::from(held);
        assert!(has_name(&held, directory.as_fd(), Path::new("lock")).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!has_name(&held, directory.as_fd(), Path::new("lock")).unwrap());
    }
}
