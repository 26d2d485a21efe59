//! Watches of the shim in the program's own instance, with wds that do not disturb the program's.
//!
//! The kernel numbers watches upwards (`inotify_user.c: inotify_add_to_idr`, a cyclic allocator), and
//! some programs depend on that. Where the kernel can set the next number (`INOTIFY_IOC_SETNEXTWD`, for
//! checkpoints), the shim's watches get the highest numbers there are, and the program's go on where they
//! were.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The kernel (`fs/notify/inotify/inotify_user.c`): `INOTIFY_IOC_SETNEXTWD` takes its argument as a
//!    number and reads no memory through it; a descriptor that is no inotify instance gives ENOTTY.
#![expect(unsafe_code, reason = "an ioctl that has no wrapper")]

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::inotify::{self, WatchFlags};
use rustix::fs::{Mode, OFlags, open};

use crate::fd_table;
use crate::inotify::shared::{FIRST_HIDDEN, Shared};
use crate::real;

/// `_IOW('I', 0, __s32)`
const INOTIFY_IOC_SETNEXTWD: std::ffi::c_ulong = 0x4004_4900;

/// The wd that an instance gives next, by descriptor; 0 for an instance of which the shim has not seen
/// every wd.
static NEXT: [AtomicI32; fd_table::LEN] = [const { AtomicI32::new(0) }; fd_table::LEN];

fn next(fd: RawFd) -> Option<&'static AtomicI32> {
    NEXT.get(usize::try_from(fd).ok()?)
}

/// Notes a new instance, whose first wd will be 1.
pub(crate) fn instance_made(fd: RawFd) {
    if let Some(next) = next(fd) {
        next.store(1, Ordering::Relaxed);
    }
}

/// Notes that the program got a wd.
pub(crate) fn wd_given(fd: RawFd, wd: i32) {
    if wd >= FIRST_HIDDEN {
        // The call of another thread came between, and got the number that was meant for a hidden watch.
        return;
    }
    if let Some(next) = next(fd).filter(|it| it.load(Ordering::Relaxed) != 0) {
        next.fetch_max(wd.saturating_add(1), Ordering::Relaxed);
    }
}

/// Notes that the instance has another number, too.
pub(crate) fn duplicated(from: RawFd, to: RawFd) {
    if let (Some(from), Some(to)) = (next(from), next(to)) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Adds a hidden watch.
pub(crate) fn add(
    fd: BorrowedFd<'_>,
    shared: &Shared,
    path: &CStr,
    mask: WatchFlags,
) -> Option<i32> {
    use std::os::fd::AsRawFd as _;
    let number = fd.as_raw_fd();
    let next = next(number).map_or(0, |it| it.load(Ordering::Relaxed));
    let is_moved = next > 0 && set_next(number, shared.next_hidden());
    // MASK_CREATE: a watch that the program has stays as it is.
    let wd = inotify::add_watch(
        fd,
        path,
        mask | WatchFlags::from_bits_retain(IN_MASK_CREATE),
    );
    if is_moved {
        set_next(number, next);
    }
    let wd = wd.ok()?;
    if !is_moved {
        wd_given(number, wd);
    }
    Some(wd)
}

/// Returns the watches that the instance has now, from `/proc/self/fdinfo`.
///
/// A watch keeps its filesystem, and the filesystem its device number. So when a watch that was made on
/// a device is alive after a daemon has named that device as one of its mounts, the watch is on that very
/// mount, and not on an earlier one that had the number.
pub(crate) fn alive(fd: BorrowedFd<'_>) -> HashSet<u32> {
    use std::os::fd::AsRawFd as _;
    let read = || -> rustix::io::Result<Vec<u8>> {
        let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::empty())?;
        let mut text = Vec::new();
        loop {
            text.reserve(1 << 16);
            if rustix::io::read(&file, rustix::buffer::spare_capacity(&mut text))? == 0 {
                return Ok(text);
            }
        }
    };
    let text = read().unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n');
    lines.filter_map(wd_in_line).collect()
}

/// Reads the wd in a line of proc_pid_fdinfo(5): `inotify wd:N ino:N sdev:N ...`, in hexadecimal digits.
fn wd_in_line(line: &[u8]) -> Option<u32> {
    let rest = line.strip_prefix(b"inotify wd:")?;
    let digits = rest.split(|byte| *byte == b' ').next()?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

const IN_MASK_CREATE: u32 = 0x1000_0000;

fn set_next(fd: RawFd, wd: i32) -> bool {
    let Ok(wd) = usize::try_from(wd) else {
        return false;
    };
    let argument = std::ptr::without_provenance_mut(wd);
    // SAFETY: 1: ioctl(2) asks that the argument be what the request takes, which is a number.
    unsafe { real::ioctl(fd, INOTIFY_IOC_SETNEXTWD, argument) == 0 }
}
