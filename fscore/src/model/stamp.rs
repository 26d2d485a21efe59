//! Versions of the host's files.

use super::attr::Nanos;

/// A version of a file or symbolic link of the host, for as long as it is the same object.
///
/// The time of the last change of any kind is part of it, because the host can set the time of the
/// last change of content back (`cp -p`, `tar`, `rsync`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// The last change of content.
    pub mtime: Nanos,
    /// The last change of anything.
    pub ctime: Nanos,
}

impl Stamp {
    /// Of what has no content that could change: a directory or a special file.
    pub(crate) const NONE: Self = Self {
        size: 0,
        mtime: 0,
        ctime: 0,
    };

    /// Whether the bytes are the same, unless the host set the time of their change back. What
    /// applying itself does to a file (another name, other permissions) does not count.
    pub(crate) fn has_bytes_of(&self, other: &Self) -> bool {
        (self.size, self.mtime) == (other.size, other.mtime)
    }
}
