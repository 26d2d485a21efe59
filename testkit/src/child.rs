//! Processes that a test waits for, with a deadline.

use std::process::{Child, ExitStatus};
use std::time::Duration;

#[cfg(feature = "daemon")]
use agentfs_client::Deadline;

/// A deadline for one step of a test: longer than any step takes, also on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the deadline of a step that begins now.
#[cfg(feature = "daemon")]
pub fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

/// Returns the status of a child, if the child ends in time. A child that does not is killed, and
/// not waited for, because it may hang in the kernel.
pub fn ended_within(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    if let Ok(Some(status)) = child.try_wait() {
        return Some(status);
    }
    if has_ended_within(child, patience) {
        return child.wait().ok();
    }
    drop(child.kill());
    None
}

/// Does as [`ended_within`], and a child that does not end fails the test.
#[track_caller]
pub fn ended(child: &mut Child) -> ExitStatus {
    ended_within(child, PATIENCE).expect("the end of a process in time")
}

#[cfg(target_os = "linux")]
fn has_ended_within(child: &Child, patience: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let end = std::time::Instant::now() + patience;
    let Ok(process) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) else {
        // A child that was not waited for still exists, so the error means that no descriptor is
        // available.
        return false;
    };
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let left = Timespec::try_from(left).unwrap();
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.unwrap() > 0,
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn has_ended_within(_: &Child, _: Duration) -> bool {
    true
}
