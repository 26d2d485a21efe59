//! Recognizes the states in which the kernel's cache of names shows through, and which are not
//! imitated.
//!
//! An open file holds the name it was opened by, and that name, also when it is removed, holds its
//! directory. So, in the kernel and not here:
//!
//! - a file whose last name goes causes `IN_DELETE_SELF` at once, although it is still open, if it was
//!   opened by another name, removed before;
//! - `IN_EXCL_UNLINK` silences a file that still has names, if it was opened by one that is gone;
//! - a removed directory causes `IN_DELETE_SELF` only when the last open file whose name was removed
//!   from it is closed.
//!
//! A sequence is compared up to the operation that leads there.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs;

use super::op::Op;

/// Directories that a removed name of an open file still holds.
#[derive(Debug, Default)]
pub struct Held(Vec<u64>);

impl Held {
    /// Returns whether an operation, about to be made below `top`, leads to such a state.
    pub fn shows_through(&mut self, top: &Path, op: Op, open: &[Option<OwnedFd>]) -> bool {
        let (Op::Unlink { path } | Op::Rmdir { path } | Op::Rename { to: path, .. }) = op else {
            return false;
        };
        let path = top.join(path);
        let Ok(victim) = fs::lstat(&path) else {
            return false;
        };
        if self.0.contains(&victim.st_ino) {
            return true;
        }
        let is_victim = |fd: &OwnedFd| fs::fstat(fd).unwrap().st_ino == victim.st_ino;
        if !open.iter().flatten().any(is_victim) {
            return false;
        }
        self.0
            .push(fs::stat(path.parent().unwrap()).unwrap().st_ino);
        let is_dir = fs::FileType::from_raw_mode(victim.st_mode) == fs::FileType::Directory;
        !is_dir && victim.st_nlink > 1
    }
}
