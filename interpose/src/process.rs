//! Which process and which thread this is, and which others are alive.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. libc: pthread_self(3) takes no argument, always succeeds, and has no precondition.
#![expect(unsafe_code, reason = "asks libc for the name of the thread")]

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, Ordering};

use agentfs_ring::OwnerId;
use rustix::process::{Pid, getpid, test_kill_process};

use crate::platform;

/// The process that the state of this library belongs to; 0 before there is any state.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Returns whether the state in memory is this process's. It is not in a child of vfork, which runs in
/// its parent's memory and may close every descriptor there is: such a child must change nothing.
pub(crate) fn owns_state() -> bool {
    let owner = OWNER.load(Ordering::Relaxed);
    // A program that never watched is not asked for its number.
    owner != 0 && owner == pid()
}

fn pid() -> u32 {
    getpid().as_raw_nonzero().get().cast_unsigned()
}

/// Makes this process the owner of the state if it has none, and returns whether it had none.
pub(crate) fn become_first_owner() -> bool {
    OWNER
        .compare_exchange(0, pid(), Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
}

/// Makes a child of fork the owner of its copy of the state.
pub(crate) fn become_owner() {
    OWNER.store(pid(), Ordering::Relaxed);
}

/// Returns the process that owns the state: this one, but in a child of vfork.
pub(crate) fn owner() -> u32 {
    OWNER.load(Ordering::Relaxed)
}

/// Returns a name of this thread among those of all processes that share a ring.
pub(crate) fn this_thread() -> OwnerId {
    // SAFETY: 1: it may be called at any time.
    let thread = unsafe { libc::pthread_self() };
    // The control blocks of two threads are not in one page.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a pointer on some systems; the low half of the page number tells threads apart"
    )]
    let page = (thread as usize >> 12) as u32;
    let id = u64::from(page) << 32 | u64::from(owner());
    OwnerId::new(NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN))
}

/// Returns whether the process of a thread that [`this_thread`] named is still there.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the process is the low half"
)]
pub(crate) fn is_owner_alive(owner: OwnerId) -> bool {
    is_process_alive(owner.get() as u32)
}

/// Returns whether there is such a process and it has not ended. A process that has ended keeps its number
/// until its parent waits for it, and this very process may be the parent.
pub(crate) fn is_process_alive(process: u32) -> bool {
    process == owner()
        || i32::try_from(process)
            .ok()
            .and_then(Pid::from_raw)
            .is_some_and(|pid| {
                test_kill_process(pid) != Err(rustix::io::Errno::SRCH) && !platform::has_ended(pid)
            })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::is_process_alive;
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_that_nobody_has_waited_for_is_dead() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(is_process_alive(child.id()));
        drop(child.stdin.take());
        let pid = Pid::from_child(&child);
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), ended).unwrap();
        assert!(!is_process_alive(child.id()));
        child.wait().unwrap();
        assert!(!is_process_alive(child.id()));
    }
}
