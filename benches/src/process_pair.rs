//! Two processes on two cores: one forked, one here.
#![expect(unsafe_code, reason = "forks, and shares a page of counters")]
#![expect(clippy::cast_ptr_alignment, reason = "mappings are page-aligned")]

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid, fork};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::placement::pin;

/// Returns the nanoseconds on the clock that all processes share.
#[must_use]
pub(crate) fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unwrap_or(0)
    })
}

/// Counters that both processes see, each on a cache line pair of its own.
#[derive(Debug)]
#[repr(C, align(128))]
struct Line(AtomicU64);

/// What the two processes share beside what they are measured with.
#[derive(Debug)]
pub(crate) struct Page(MmapRaw);

const LINES: usize = 16;

impl Page {
    /// Creates a page of zeroes.
    ///
    /// # Panics
    ///
    /// Panics when there is no memory.
    #[must_use]
    pub(crate) fn new() -> Self {
        let fd = memfd_create("agentfs-bench", MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&fd, (LINES * size_of::<Line>()) as u64).expect("a memfd of this size");
        Self(
            MmapOptions::new()
                .len(LINES * size_of::<Line>())
                .map_raw(&fd)
                .expect("mapped"),
        )
    }

    /// Returns one of the counters. Counter 0 is used by [`Page::meet`].
    ///
    /// # Panics
    ///
    /// Panics beyond the last of sixteen.
    #[must_use]
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < LINES);
        // SAFETY: the page holds LINES lines of zeroed memory, shared only as atomics.
        let lines = unsafe { &*self.0.as_ptr().cast::<[Line; LINES]>() };
        &lines[index].0
    }

    /// Waits, spinning, until both processes have come here.
    pub(crate) fn meet(&self) {
        let here = self.word(0).fetch_add(1, Ordering::AcqRel) / 2;
        while self.word(0).load(Ordering::Acquire) / 2 == here {
            spin_loop();
        }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes this process run only when nothing else wants the core: SCHED_IDLE, see sched(7).
pub(crate) fn set_idle_priority() {
    let param = nix::libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters are a valid struct for the length of the call.
    let _ = unsafe { nix::libc::sched_setscheduler(0, nix::libc::SCHED_IDLE, &raw const param) };
}

/// The forked process.
#[derive(Debug)]
pub(crate) struct Other(Pid);

/// Runs `there` in a process of its own on core 0 and `here` on core 1.
///
/// # Panics
///
/// Panics when the other process fails.
pub(crate) fn run<T>(there: impl FnOnce(), here: impl FnOnce() -> T) -> T {
    let other = Other::start(there);
    pin(1);
    let result = here();
    other.join();
    result
}

impl Other {
    /// Forks a child, which ends with the closure.
    ///
    /// # Panics
    ///
    /// Panics when there can be no other process.
    #[must_use]
    pub(crate) fn start(there: impl FnOnce()) -> Self {
        // SAFETY: the benchmark has one thread whenever it forks.
        match unsafe { fork() }.expect("a process") {
            ForkResult::Parent { child } => Self(child),
            ForkResult::Child => {
                pin(0);
                let outcome = std::panic::catch_unwind(core::panic::AssertUnwindSafe(there));
                // SAFETY: ends the child without the parent's exit handlers.
                unsafe { nix::libc::_exit(i32::from(outcome.is_err())) }
            }
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// Panics when it failed.
    pub(crate) fn join(self) {
        assert_eq!(
            waitpid(self.0, None),
            Ok(WaitStatus::Exited(self.0, 0)),
            "the other process"
        );
    }
}
