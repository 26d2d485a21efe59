//! Which directory a daemon serves, and whether that directory still is where it was.

use crate::bytes::Bytes;
use crate::ssz::{container, numbered};

numbered! {
    /// Where the directory below the branches is. Numbers without a name are refused.
    pub enum ProjectPlace {
        /// At its path.
        0 => InPlace,
        /// Its path shows another directory or nothing.
        1 => Elsewhere,
        /// It was deleted; the daemon still holds it open.
        2 => Deleted,
        /// There is no directory below the branches.
        3 => Nowhere,
    }
}

container! {
    /// Asks which directory is below the branches.
    pub struct Project {
        /// For later; 0.
        pub flags: u32,
    }

    /// The directory below the branches.
    pub struct ProjectInfo {
        /// The path that the daemon was started with, resolved; empty when there is no directory.
        pub lower: Bytes,
        /// The device of the directory that the daemon holds open, as `st_dev`. No other directory has
        /// these two numbers while the daemon lives.
        pub device: u64,
        /// The inode number of that directory.
        pub inode: u64,
        /// Whether the path still leads to it.
        pub place: ProjectPlace,
        /// Where it is now, if that is known and the path does not lead to it.
        pub now_at: Bytes,
    }
}
