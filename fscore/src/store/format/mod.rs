//! What the log says of a branch, byte for byte: docs/store-format.md describes it.

pub(crate) mod bytes;
mod content;
mod inode;

pub(crate) use self::content::KnownExtents;
