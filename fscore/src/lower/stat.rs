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
pub struct Fingerprint {
    object: HostId,
    kind: Option<ObjectKind>,
    stamp: Stamp,
}

/// Every kind, in the order of the numbers that [`Fingerprint::to_words`] uses.
const KINDS: [ObjectKind; 7] = [
    ObjectKind::File,
    ObjectKind::Directory,
    ObjectKind::Symlink,
    ObjectKind::Fifo,
    ObjectKind::Socket,
    ObjectKind::CharDevice,
    ObjectKind::BlockDevice,
];

impl Fingerprint {
    /// How many words there are of a fingerprint.
    pub(super) const WORDS: usize = 7;

    /// Returns the fingerprint of an object that stat(2) has found.
    #[must_use]
    pub fn of(stat: &Stat) -> Self {
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

    /// Returns the fingerprint as numbers, which mean the same in another process.
    pub(super) fn to_words(self) -> [u64; Self::WORDS] {
        let kind = KINDS.iter().position(|kind| self.kind == Some(*kind));
        [
            self.object.0,
            self.object.1,
            kind.map_or(0, |at| at as u64 + 1),
            self.stamp.size,
            self.stamp.mtime.cast_unsigned(),
            self.stamp.ctime.cast_unsigned(),
            self.stamp.inode,
        ]
    }

    /// Returns the fingerprint of these numbers, if they are one.
    pub(super) fn from_words(words: [u64; Self::WORDS]) -> Option<Self> {
        let [device, number, kind, size, mtime, ctime, inode] = words;
        let kind = match kind.checked_sub(1) {
            None => None,
            Some(at) => Some(*KINDS.get(usize::try_from(at).ok()?)?),
        };
        Some(Self {
            object: (device, number),
            kind,
            stamp: Stamp {
                size,
                mtime: mtime.cast_signed(),
                ctime: ctime.cast_signed(),
                inode,
            },
        })
    }

    /// Returns whether both are of one object, whichever number its device has by now.
    pub(super) fn is_object_of(&self, other: &Self) -> bool {
        (self.object.1, self.kind) == (other.object.1, other.kind)
    }

    /// Returns whether both are of one object, as [`is_object_of`](Self::is_object_of) does, which
    /// was not written since.
    pub(super) fn is_version_of(&self, other: &Self) -> bool {
        self.is_object_of(other) && (self.is_dir() || self.stamp.has_bytes_of(&other.stamp))
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
