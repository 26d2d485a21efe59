//! Waits for names to come and go, by inotify.

use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

use agentfs_testkit::child::PATIENCE;

/// Waits until a directory has an entry for which `wanted` holds, and returns its path.
#[track_caller]
pub(crate) fn entry(directory: &Path, wanted: impl Fn(&str) -> bool) -> PathBuf {
    until(directory, || {
        let mut entries = fs::read_dir(directory).ok()?.flatten();
        let found = entries.find(|it| it.file_name().to_str().is_some_and(&wanted))?;
        Some(found.path())
    })
}

/// Waits until a path exists, with the directories above it below `root`, which exists already.
#[track_caller]
pub(crate) fn appears(root: &Path, path: &Path) {
    let mut directory = root.to_owned();
    for name in path.strip_prefix(root).unwrap() {
        let next = directory.join(name);
        until(&directory, || next.symlink_metadata().ok());
        directory = next;
    }
}

/// Waits until a directory has no entry for which `unwanted` holds.
#[track_caller]
pub(crate) fn no_entry(directory: &Path, unwanted: impl Fn(&str) -> bool) {
    until(directory, || {
        let mut entries = fs::read_dir(directory).ok()?.flatten();
        let is_there = entries.any(|it| it.file_name().to_str().is_some_and(&unwanted));
        (!is_there).then_some(())
    });
}

/// Calls `look` at once, and whenever something happens in a directory.
#[track_caller]
fn until<T>(directory: &Path, look: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
    let names = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE;
    add_watch(&inotify, directory, names).unwrap();
    loop {
        if let Some(found) = look() {
            return found;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap();
        let mut ready = [PollFd::new(&inotify, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut ready, Some(&left))).unwrap();
        assert!(ready > 0, "it happens in time in {}", directory.display());
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&inotify, &mut buffer);
        while events.next().is_ok() {}
    }
}
