//! The directory that changes are applied to. Everything below it is reached from its descriptor,
//! through no symbolic link and into nothing that is mounted there.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use agentfs_core::{Fingerprint, beneath, recover};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::changes::{Identity, Stamp, split};
use crate::platform::{self, DIRECTORY};

const TYPE_MASK: u32 = 0o170_000;
const DIRECTORY_TYPE: u32 = 0o040_000;
const FILE_TYPE: u32 = 0o100_000;

/// Converts a number, whose type differs between systems.
pub(crate) fn number<T: TryInto<u64>>(number: T) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

/// What the host says of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metadata {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Type and permissions.
    pub(crate) mode: u32,
    pub(crate) nlink: u64,
    pub(crate) rdev: u64,
    pub(crate) fingerprint: Fingerprint,
    size: u64,
    mtime_ns: i64,
    born_ns: Option<i64>,
}

impl Metadata {
    pub(crate) fn of(stat: &Stat) -> Self {
        let seconds: i64 = stat.st_mtime;
        let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
        Self {
            dev: number(stat.st_dev),
            ino: number(stat.st_ino),
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: u32::try_from(number(stat.st_mode)).unwrap_or_default(),
            nlink: number(stat.st_nlink),
            rdev: number(stat.st_rdev),
            fingerprint: Fingerprint::of(stat),
            size: number(stat.st_size),
            mtime_ns: seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
            born_ns: None,
        }
    }

    pub(crate) fn kind(&self) -> u32 {
        self.mode & TYPE_MASK
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind() == DIRECTORY_TYPE
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind() == FILE_TYPE
    }

    pub(crate) fn mtime_ns(&self) -> i64 {
        self.mtime_ns
    }

    pub(crate) fn stamp(&self) -> Stamp {
        let (size, mtime_ns) = if self.is_dir() {
            (0, 0)
        } else {
            (self.size, self.mtime_ns)
        };
        Stamp {
            kind: self.kind(),
            size,
            mtime_ns,
            ino: Some(self.ino),
            born_ns: self.born_ns,
        }
    }
}

/// The directory that changes are applied to.
#[derive(Debug)]
pub struct Target {
    root: OwnedFd,
    path: PathBuf,
}

/// Where an object is: its directory, and its name in it.
#[derive(Debug)]
pub(crate) struct Location<'a> {
    pub(crate) dir: OwnedFd,
    /// Empty for the root itself.
    pub(crate) name: &'a [u8],
}

impl Location<'_> {
    pub(crate) fn look(&self) -> io::Result<Option<Metadata>> {
        look_at(self.dir.as_fd(), self.name)
    }
}

fn look_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Metadata>> {
    let stat = if name.is_empty() {
        rustix::fs::fstat(dir)
    } else {
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
    };
    match stat {
        Ok(stat) => Ok(Some(Metadata {
            born_ns: platform::birth_time(dir, name),
            ..Metadata::of(&stat)
        })),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

impl Target {
    /// Opens a directory that the user named. Links on the way to it are followed, as they are the
    /// user's own.
    ///
    /// # Errors
    ///
    /// Those of open(2): the path leads to no directory, or the user may not read it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: rustix::fs::open(path, flags, Mode::empty())?,
            path: path.to_owned(),
        })
    }

    /// Returns where the directory is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns which directory it is.
    ///
    /// # Errors
    ///
    /// Those of fstat(2).
    pub fn identity(&self) -> io::Result<Identity> {
        let stat = rustix::fs::fstat(&self.root)?;
        Ok(Identity {
            dev: number(stat.st_dev),
            ino: number(stat.st_ino),
        })
    }

    /// Locks the directory against all others that apply something to it, daemons included, as long as
    /// this value lives. Calls `wait` when another process has the lock. A filesystem without locks is no
    /// error. What a process that was killed has left half applied is taken back.
    ///
    /// # Errors
    ///
    /// Those of flock(2), and of the calls that take something back.
    pub fn lock(&self, wait: impl FnOnce()) -> io::Result<()> {
        match rustix::fs::flock(&self.root, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                wait();
                let wanted = FlockOperation::LockExclusive;
                rustix::io::retry_on_intr(|| rustix::fs::flock(&self.root, wanted))?;
            }
            // Some filesystems have no locks.
            Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK) => {}
            result => result?,
        }
        recover(&self.root)?;
        Ok(())
    }

    /// Returns a path on the host, for people.
    pub(crate) fn display(&self, path: &[u8]) -> PathBuf {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        self.path.join(OsStr::from_bytes(path))
    }

    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Opens the directory of a relative path.
    pub(crate) fn locate<'a>(&self, path: &'a [u8]) -> io::Result<Location<'a>> {
        let (dir, name) = split(path);
        let dir = beneath::open_on_mount(&self.root, dir, DIRECTORY)?;
        Ok(Location { dir, name })
    }

    /// Returns what is at a relative path. A symbolic link or a mount on the way is an error.
    pub(crate) fn look(&self, path: &[u8]) -> io::Result<Option<Metadata>> {
        match self.locate(path) {
            Ok(location) => location.look(),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR) => Ok(None),
                _ => Err(error),
            },
        }
    }
}
