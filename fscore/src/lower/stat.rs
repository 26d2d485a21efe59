//! Conversions from the host's stat to the types of this crate.

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Stat};

use super::index::HostId;
use crate::model::attr::Nanos;
use crate::model::event::ObjectKind;
use crate::model::stamp::Stamp;

/// Converts a number of the host, whose type differs from system to system.
pub(super) fn number<T: TryInto<u64>>(value: T) -> u64 {
    value.try_into().unwrap_or(0)
}

pub(super) fn small<T: TryInto<u32>>(value: T) -> u32 {
    value.try_into().unwrap_or(u32::MAX)
}

pub(super) fn object_of(stat: &Stat) -> HostId {
    (number(stat.st_dev), number(stat.st_ino))
}

pub(super) fn nanos<S: Into<i64>, N: TryInto<u64>>(seconds: S, nanoseconds: N) -> Nanos {
    let part = i64::try_from(number(nanoseconds)).unwrap_or(0);
    seconds
        .into()
        .saturating_mul(1_000_000_000)
        .saturating_add(part)
}

pub(super) fn kind_of(kind: FileType) -> Option<ObjectKind> {
    Some(match kind {
        FileType::RegularFile => ObjectKind::File,
        FileType::Directory => ObjectKind::Directory,
        FileType::Symlink => ObjectKind::Symlink,
        FileType::Fifo => ObjectKind::Fifo,
        FileType::Socket => ObjectKind::Socket,
        FileType::CharacterDevice => ObjectKind::CharDevice,
        FileType::BlockDevice => ObjectKind::BlockDevice,
        FileType::Unknown => return None,
    })
}

pub(super) fn stat_kind(stat: &Stat) -> Option<ObjectKind> {
    kind_of(FileType::from_raw_mode(stat.st_mode))
}

/// Returns the permission bits: `mode & 0o7777`.
pub(crate) fn mode_of(stat: &Stat) -> u32 {
    small(stat.st_mode) & 0o7777
}

/// What identifies an object of the host together with the state in which it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fingerprint {
    object: HostId,
    kind: Option<ObjectKind>,
    stamp: Stamp,
}

impl Fingerprint {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            object: object_of(stat),
            kind: stat_kind(stat),
            stamp: stamp_of(stat),
        }
    }

    /// Returns the fingerprint of what is at this name now.
    pub(crate) fn at(dir: &OwnedFd, name: &[u8]) -> Option<Self> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.ok().as_ref().map(Self::of)
    }

    /// Returns the version of a file or symbolic link, and [`Stamp::NONE`] for any other object.
    pub(crate) fn version(&self) -> Stamp {
        match self.kind {
            Some(ObjectKind::File | ObjectKind::Symlink) => self.stamp,
            Some(
                ObjectKind::Directory
                | ObjectKind::Fifo
                | ObjectKind::Socket
                | ObjectKind::CharDevice
                | ObjectKind::BlockDevice,
            )
            | None => Stamp::NONE,
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind == Some(ObjectKind::Directory)
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind == Some(ObjectKind::File)
    }

    /// Returns whether both are of the same object, which was not written since. A directory
    /// only has to be the same object.
    pub(crate) fn is_same_content(&self, other: &Self) -> bool {
        let is_untouched = self.is_dir() || self.stamp.has_bytes_of(&other.stamp);
        (self.object, self.kind) == (other.object, other.kind) && is_untouched
    }
}

pub(super) fn stamp_of(stat: &Stat) -> Stamp {
    Stamp {
        size: number(stat.st_size),
        mtime: nanos(stat.st_mtime, stat.st_mtime_nsec),
        ctime: nanos(stat.st_ctime, stat.st_ctime_nsec),
        inode: match stat_kind(stat) {
            Some(ObjectKind::File) => number(stat.st_ino),
            _ => 0,
        },
    }
}
