//! How many inotify watches a user may have.

use std::path::Path;

/// What is enough for nearly everybody.
const ENOUGH: u64 = 524_288;

/// The number in a file.
pub fn read_number(path: impl AsRef<Path>) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The limit, if the kernel has inotify. A user namespace may have a lower one of its own.
#[must_use]
pub fn watches() -> Option<u64> {
    let limit = read_number("/proc/sys/fs/inotify/max_user_watches")?;
    let own = read_number("/proc/sys/user/max_inotify_watches");
    Some(own.map_or(limit, |own| own.min(limit)))
}

/// The command that allows more, which needs root.
#[must_use]
pub fn allow_more() -> String {
    let more = watches().unwrap_or_default().saturating_mul(2).max(ENOUGH);
    format!("sysctl fs.inotify.max_user_watches={more}")
}
