//! Linux: mounts are FUSE, and every mount has a number of its own.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The kernel (statx(2)): it reads the path by itself and fails with EFAULT where there is no string,
//!    and it writes nothing but one `struct statx`, at the address given for it.
//! 2. libc: `struct statx` is made of integers alone, so zeros are a value of it.
#![expect(
    unsafe_code,
    reason = "looks at a path that the kernel has not checked yet"
)]

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatFs, StatxFlags, fstatfs, major, makedev, statfs, statx};

use super::{Object, is_served};
use crate::config::config;

const FUSE_SUPER_MAGIC: u32 = 0x6573_5546;

/// linux/stat.h, since 6.8
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// Looks a path up as `inotify_add_watch` does. The path may be any pointer.
pub(crate) fn object(path: *const c_char, follow: bool) -> Option<Object> {
    let no_follow = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    let flags = no_follow | libc::AT_STATX_DONT_SYNC;
    let wanted = libc::STATX_INO | libc::STATX_MNT_ID | STATX_MNT_ID_UNIQUE;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: 1: the path is the kernel's to check, and `found` is a live place for the one structure
    // that it writes.
    let failed =
        unsafe { libc::statx(libc::AT_FDCWD, path, flags, wanted, found.as_mut_ptr()) } != 0;
    // SAFETY: 2: it began as zeros, and stays a value whatever integers the kernel has written.
    let found = unsafe { found.assume_init() };
    (!failed).then(|| Object {
        st_dev: makedev(found.stx_dev_major, found.stx_dev_minor),
        st_ino: found.stx_ino,
        mount: found.stx_mnt_id,
    })
}

fn object_at(from: BorrowedFd<'_>, path: &CStr, flags: AtFlags) -> Option<Object> {
    let flags = flags | AtFlags::STATX_DONT_SYNC;
    let wanted =
        StatxFlags::INO | StatxFlags::MNT_ID | StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);
    let found = statx(from, path, flags, wanted).ok()?;
    Some(Object {
        st_dev: makedev(found.stx_dev_major, found.stx_dev_minor),
        st_ino: found.stx_ino,
        mount: found.stx_mnt_id,
    })
}

/// Returns whether the daemon serves the mount of the object, or may serve it: while no daemon answers, every
/// mount of FUSE may be one of its mounts, and what is watched there is noted for the daemon to come.
pub(crate) fn is_agentfs(object: Object, path: &CStr) -> bool {
    is_served(object, || statfs(path).is_ok_and(|it| is_fuse(&it))).unwrap_or(true)
}

/// Returns whether an open file lies on a mount that the daemon serves.
pub(crate) fn is_file_on_agentfs(file: BorrowedFd<'_>) -> bool {
    let Some(object) = object_at(file, c"", AtFlags::EMPTY_PATH) else {
        return false;
    };
    is_served(object, || fstatfs(file).is_ok_and(|it| is_fuse(&it))).unwrap_or(false)
}

/// Returns false for a disk's filesystem, which has a major device number and is none of the daemon's.
pub(super) fn may_be_served(object: Object) -> bool {
    major(object.st_dev) == 0 || config().any_filesystem()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a 32-bit number, whatever its type"
)]
fn is_fuse(statfs: &StatFs) -> bool {
    statfs.f_type as u32 == FUSE_SUPER_MAGIC
}
