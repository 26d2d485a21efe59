//! The mounts that this process sees.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

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

/// Waits until a mount whose server was killed is cut off: it is still there, and answers an error. A
/// mount that shows anything, be it what is beneath, fails the test.
#[track_caller]
pub fn wait_until_cut_off(path: &Path) {
    // Nobody asked for this name before, so the kernel asks the server, and waits while there is one.
    let name = format!("asked-after-{}", std::process::id());
    let error = fs::metadata(path.join(name)).unwrap_err();
    let is_cut_off = matches!(
        error.kind(),
        ErrorKind::NotConnected | ErrorKind::ConnectionAborted
    );
    assert!(is_cut_off, "{}: {error}", path.display());
}
