//! Versions of the host's files.

use super::attr::Nanos;

/// A version of a file or symbolic link of the host. Stamps are compared within one object, and
/// with those that had its name before.
///
/// The time of the last change of any kind (`ctime`) is part of a stamp, because programs on the
/// host can set the time of the last change of content (`mtime`) back, as `cp -p`, `tar` and
/// `rsync` do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// The last change of content.
    pub mtime: Nanos,
    /// The last change of anything.
    pub ctime: Nanos,
    /// The inode number of a file, and 0 where it is not known: of a symbolic link, and of what a
    /// branch made. A file that is renamed over another one may have its size and its times, if
    /// both were written in one tick of the kernel's clock.
    pub inode: u64,
}

impl Stamp {
    /// The stamp of an object without content of its own: a directory or a special file.
    pub(crate) const NONE: Self = Self {
        size: 0,
        mtime: 0,
        ctime: 0,
        inode: 0,
    };

    /// Returns whether the bytes are the same, unless the host has set the time of their change
    /// back. Another name or other permissions, which applying itself gives a file, do not count as
    /// a change.
    pub(crate) fn has_bytes_of(&self, other: &Self) -> bool {
        let is_one = self.inode == other.inode || self.inode == 0 || other.inode == 0;
        is_one && (self.size, self.mtime) == (other.size, other.mtime)
    }
}
