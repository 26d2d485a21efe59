//! What every hook needs around its work: errno kept, no panic let out, and to know in which process
//! it runs.
#![expect(unsafe_code, reason = "errno, and the handlers of fork")]

use std::ffi::c_int;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use agentfs_ring::OwnerId;
use rustix::process::{Pid, getpid, test_kill_process};
use rustix::time::{ClockId, clock_gettime};

/// Counts panics that were kept from the program. Nobody is told: there is nobody to tell.
pub(crate) static PANICS: AtomicU64 = AtomicU64::new(0);

/// Runs `work` with errno as it was before and after. `None` when it panicked.
pub(crate) fn guarded<R>(work: impl FnOnce() -> R) -> Option<R> {
    let before = errno();
    let result = caught(work);
    set_errno(before);
    result
}

/// Runs `work`, which looks after errno itself. `None` when it panicked.
#[inline]
pub(crate) fn caught<R>(work: impl FnOnce() -> R) -> Option<R> {
    let result = catch_unwind(AssertUnwindSafe(work));
    if result.is_err() {
        // Relaxed: a counter.
        PANICS.fetch_add(1, Ordering::Relaxed);
    }
    result.ok()
}

/// This thread's errno.
pub(crate) fn errno() -> c_int {
    // SAFETY: no preconditions; the pointer is valid for this thread.
    unsafe { *errno_location() }
}

/// Sets this thread's errno.
pub(crate) fn set_errno(value: c_int) {
    // SAFETY: as above.
    unsafe { *errno_location() = value };
}

fn errno_location() -> *mut c_int {
    #[cfg(target_os = "linux")]
    // SAFETY: no preconditions.
    return unsafe { libc::__errno_location() };
    #[cfg(not(target_os = "linux"))]
    // SAFETY: no preconditions.
    return unsafe { libc::__error() };
}

/// The process that the state of this library belongs to; 0 before there is any state.
static HOME: AtomicU32 = AtomicU32::new(0);

/// Whether the state in memory is this process's. It is not in a child of vfork, which runs in its
/// parent's memory and may close every descriptor there is: it must change nothing.
pub(crate) fn is_home() -> bool {
    let home = HOME.load(Ordering::Relaxed);
    // A program that never watched is not asked for its number.
    home != 0 && home == pid()
}

fn pid() -> u32 {
    getpid().as_raw_nonzero().get().cast_unsigned()
}

/// Makes this process the home of the state, and fork tell its children that they are theirs.
pub(crate) fn settle() {
    if HOME
        .compare_exchange(0, pid(), Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
    {
        silence_panics();
        // SAFETY: the handler is a function of this library, which is never unloaded (it is
        // preloaded), and does only what a child of fork may do.
        unsafe { libc::pthread_atfork(None, None, Some(in_forked_child)) };
    }
}

/// A panic of ours must print nothing. The hook is that of this library's own copy of std.
fn silence_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

extern "C" fn in_forked_child() {
    HOME.store(pid(), Ordering::Relaxed);
    crate::in_forked_child();
}

/// Names this thread among those of all processes that share a ring.
pub(crate) fn this_thread() -> OwnerId {
    // SAFETY: no preconditions.
    let thread = unsafe { libc::pthread_self() };
    // The control blocks of two threads are not in one page.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a pointer on some systems; the low half of the page number tells threads apart"
    )]
    let page = (thread as usize >> 12) as u32;
    let process = HOME.load(Ordering::Relaxed);
    let id = u64::from(page) << 32 | u64::from(process);
    OwnerId::new(NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN))
}

/// This process, as the state knows it.
pub(crate) fn home() -> u32 {
    HOME.load(Ordering::Relaxed)
}

/// Whether the process of a thread that [`this_thread`] named is still there.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the process is the low half"
)]
pub(crate) fn is_owner_alive(owner: OwnerId) -> bool {
    is_process_alive(owner.get() as u32)
}

/// Whether there is such a process, and it has not ended. One that nobody has waited for still has its
/// number, and whoever should wait for it may be the one who asks.
pub(crate) fn is_process_alive(process: u32) -> bool {
    process == home()
        || i32::try_from(process)
            .ok()
            .and_then(Pid::from_raw)
            .is_some_and(|pid| {
                test_kill_process(pid) != Err(rustix::io::Errno::SRCH) && !has_ended(pid)
            })
}

/// pidfd_open(2): readable when the process has ended.
#[cfg(target_os = "linux")]
fn has_ended(pid: Pid) -> bool {
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

#[cfg(not(target_os = "linux"))]
fn has_ended(_pid: Pid) -> bool {
    false
}

/// What a thread does that waits for another: lets it run, and after some `rounds` sleeps, so that one
/// of lower priority, or one that waits for the daemon, is not kept from its processor.
pub(crate) fn give_way(rounds: u32) {
    const YIELDS: u32 = 32;
    if rounds < YIELDS {
        rustix::thread::sched_yield();
    } else {
        let moment = rustix::thread::Timespec {
            tv_sec: 0,
            tv_nsec: 50_000,
        };
        // A signal ends it early, which does no harm.
        let _ = rustix::thread::nanosleep(&moment);
    }
}

#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::MonotonicCoarse;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// Seconds since the machine started.
pub(crate) fn seconds() -> u64 {
    u64::try_from(clock_gettime(CLOCK).tv_sec).unwrap_or(0)
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
