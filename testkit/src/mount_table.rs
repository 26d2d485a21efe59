//! The mounts that this process sees.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::child::PATIENCE;

const TABLE: &str = "/proc/self/mountinfo";

/// Returns how many mounts lie on a directory, one above the other.
pub fn mounts_on(path: &Path) -> usize {
    let mounts = fs::read_to_string(TABLE).unwrap();
    // As it is written there (proc_pid_mountinfo(5)).
    let path = path.to_str().unwrap().replace(' ', "\\040");
    mounts
        .lines()
        .filter(|line| line.split(' ').nth(4) == Some(&path))
        .count()
}

pub fn is_mount_point(path: &Path) -> bool {
    mounts_on(path) > 0
}

/// Waits until the kernel reports a changed mount table in which `path` is no mount point. Returns
/// whether it did so in time.
pub fn is_unmounted_within(path: &Path, patience: Duration) -> bool {
    let table = File::open(TABLE).unwrap();
    let until = Instant::now() + patience;
    while is_mount_point(path) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        // A change of the mounts is an exceptional condition. One change since the file was opened
        // is remembered.
        let mut polled = [PollFd::new(&table, PollFlags::PRI)];
        let wait = Timespec::try_from(left).unwrap();
        match poll(&mut polled, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("{TABLE}: {error}"),
        }
    }
    true
}

/// Waits as [`is_unmounted_within`] does, and a mount that stays fails the test.
#[track_caller]
pub fn wait_until_unmounted(path: &Path) {
    let is_unmounted = is_unmounted_within(path, PATIENCE);
    assert!(is_unmounted, "{} is still mounted", path.display());
}
