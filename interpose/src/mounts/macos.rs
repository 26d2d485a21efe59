//! macOS: any filesystem may be one of the daemon's, because the programs that can mount AgentFS there give
//! their filesystems different names.

use std::os::fd::BorrowedFd;

use rustix::fs::fstat;

use super::{Object, is_served};

/// Returns whether an open file lies on a mount that the daemon serves.
pub(crate) fn is_file_on_agentfs(file: BorrowedFd<'_>) -> bool {
    let Ok(stat) = fstat(file) else {
        return false;
    };
    // dev_t is signed on macOS.
    let object = Object {
        st_dev: stat.st_dev as u64,
        st_ino: stat.st_ino,
        mount: 0,
    };
    is_served(object, || true).unwrap_or(false)
}

/// Returns true: a device number says nothing of the filesystem here.
pub(super) fn may_be_served(_object: Object) -> bool {
    true
}
