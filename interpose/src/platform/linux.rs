//! Linux: the inotify side, and the kqueue side where tests have turned it on.
#![expect(unsafe_code, reason = "asks libc where errno is")]

use std::ffi::{OsStr, c_int};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

use crate::{inotify, kqueue};

/// Returns where this thread's errno is.
pub(crate) fn errno_location() -> *mut c_int {
    // SAFETY: the function has no precondition.
    unsafe { libc::__errno_location() }
}

/// Returns whether a process has ended: its descriptor of pidfd_open(2) is readable then.
pub(crate) fn has_ended(pid: Pid) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};
    const AT_ONCE: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    pidfd_open(pid, PidfdFlags::empty()).is_ok_and(|process| {
        let mut one = [PollFd::new(&process, PollFlags::IN)];
        poll(&mut one, Some(&AT_ONCE)).is_ok_and(|ready| ready > 0)
    })
}

/// Returns the seconds since the machine started.
pub(crate) fn seconds() -> u64 {
    u64::try_from(clock_gettime(ClockId::MonotonicCoarse).tv_sec).unwrap_or(0)
}

/// Makes a socket that no child inherits over exec.
pub(crate) fn new_socket() -> Option<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .ok()
}

/// Returns the path of the running program.
pub(crate) fn program_path() -> PathBuf {
    let path = rustix::fs::readlink("/proc/self/exe", Vec::new()).unwrap_or_default();
    PathBuf::from(OsStr::from_bytes(path.to_bytes()))
}

/// Notes that a descriptor of the program is about to be closed.
pub(crate) fn closing(fd: RawFd) {
    kqueue::closing(fd);
    inotify::closing(fd);
}

/// Notes that a descriptor of the program has another number, too.
pub(crate) fn duplicated(from: RawFd, to: RawFd) {
    kqueue::duplicated(from, to);
    inotify::duplicated(from, to);
}

/// Makes the state of both sides that of a child of fork.
pub(crate) fn in_forked_child() {
    inotify::in_forked_child();
    kqueue::in_forked_child();
}
