//! The C functions, without their C names: a test links this crate beside the hooks that have those.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The caller of a function of the kevent family: `events` points to `nevents` writable structures,
//!    of any alignment, that nobody else uses during the call.
//! 2. The same caller: `timeout` is null or points to a timespec.
//! 3. Our own: the algorithm of a call (`call.rs`) puts events only below [`Buffers::room`].

#![expect(unsafe_code, reason = "the functions take C pointers")]

use std::ffi::{c_int, c_uint, c_void};
use std::os::fd::RawFd;

use rustix::event::Timespec;
use rustix::io::Errno;

use crate::abi::{self, Kevent, Kevent64, KeventQos, Layout};
use crate::call::{self, Buffers, Timeout};
use crate::{queue_table, sys};

struct Raw<L> {
    changes: *const L,
    nchanges: usize,
    events: *mut L,
    nevents: usize,
}

impl<L: Layout> Buffers<L> for Raw<L> {
    fn change(&self, index: usize) -> Result<Option<L>, Errno> {
        if index >= self.nchanges {
            return Ok(None);
        }
        sys::copy_in(self.changes.wrapping_add(index)).map(Some)
    }

    fn room(&self) -> usize {
        self.nevents
    }

    fn put(&mut self, index: usize, event: L) {
        debug_assert!(index < self.nevents);
        // SAFETY: 1 and 3: `index` is below `nevents`, so the place is inside the caller's array.
        let at = unsafe { self.events.add(index) };
        // SAFETY: 1 and 3: the place is writable and nobody else's; no alignment is assumed.
        unsafe { at.write_unaligned(event) };
    }
}

impl<L: Layout> Raw<L> {
    fn new(changes: *const L, nchanges: c_int, events: *mut L, nevents: c_int) -> Self {
        Self {
            changes,
            nchanges: usize::try_from(nchanges).unwrap_or(0),
            events,
            nevents: usize::try_from(nevents).unwrap_or(0),
        }
    }

    fn run(mut self, kq: c_int, timeout: Timeout, flags: c_uint) -> c_int {
        let errors_only = flags & abi::KEVENT_FLAG_ERROR_EVENTS != 0;
        let timeout = match flags & abi::KEVENT_FLAG_IMMEDIATE {
            0 => timeout,
            _ => Timeout::None,
        };
        result(
            call::run(kq, &mut self, timeout, errors_only)
                .map(|count| c_int::try_from(count).unwrap_or(c_int::MAX)),
        )
    }
}

fn result(result: Result<c_int, Errno>) -> c_int {
    result.unwrap_or_else(|errno| {
        sys::set_errno(errno);
        -1
    })
}

/// Reads a timeout; null is none.
///
/// # Safety
///
/// * `timeout` is null or points to a timespec.
unsafe fn read_timeout(timeout: *const libc::timespec) -> Timeout {
    if timeout.is_null() {
        return Timeout::Forever;
    }
    // SAFETY: 2: not null, so a timespec, which C aligns.
    let libc::timespec { tv_sec, tv_nsec } = unsafe { timeout.read() };
    Timeout::Given(Timespec { tv_sec, tv_nsec })
}

/// Makes a queue: `int kqueue(void)`.
#[expect(
    clippy::must_use_candidate,
    reason = "a C function, called for its effect"
)]
pub extern "C" fn kqueue() -> c_int {
    result(queue_table::open())
}

/// Applies changes and fetches events: `int kevent(int kq, const struct kevent *changes, int nchanges,
/// struct kevent *events, int nevents, const struct timespec *timeout)`.
///
/// # Safety
///
/// * `changes` points to `nchanges` readable, `events` to `nevents` writable structures; they may
///   overlap when they start at the same address.
/// * `timeout` is null or points to a timespec.
pub unsafe extern "C" fn kevent(
    kq: c_int,
    changes: *const Kevent,
    nchanges: c_int,
    events: *mut Kevent,
    nevents: c_int,
    timeout: *const libc::timespec,
) -> c_int {
    // SAFETY: 2: it is the caller's `timeout`, as it came.
    let timeout = unsafe { read_timeout(timeout) };
    Raw::new(changes, nchanges, events, nevents).run(kq, timeout, 0)
}

/// Applies changes and fetches events: `int kevent64(int kq, const struct kevent64_s *changes, int
/// nchanges, struct kevent64_s *events, int nevents, unsigned flags, const struct timespec *timeout)`.
///
/// # Safety
///
/// As [`kevent`].
pub unsafe extern "C" fn kevent64(
    kq: c_int,
    changes: *const Kevent64,
    nchanges: c_int,
    events: *mut Kevent64,
    nevents: c_int,
    flags: c_uint,
    timeout: *const libc::timespec,
) -> c_int {
    let timeout = match flags & abi::KEVENT_FLAG_IMMEDIATE {
        // SAFETY: 2: it is the caller's `timeout`, as it came.
        0 => unsafe { read_timeout(timeout) },
        _ => Timeout::None,
    };
    Raw::new(changes, nchanges, events, nevents).run(kq, timeout, flags)
}

/// Applies changes and fetches events: `int kevent_qos(int kq, const struct kevent_qos_s *changes, int
/// nchanges, struct kevent_qos_s *events, int nevents, void *data_out, size_t *data_available, unsigned
/// flags)`.
///
/// # Safety
///
/// As [`kevent`]; the data arguments are not used.
pub unsafe extern "C" fn kevent_qos(
    kq: c_int,
    changes: *const KeventQos,
    nchanges: c_int,
    events: *mut KeventQos,
    nevents: c_int,
    _data_out: *mut c_void,
    _data_available: *mut usize,
    flags: c_uint,
) -> c_int {
    Raw::new(changes, nchanges, events, nevents).run(kq, Timeout::Forever, flags)
}

/// Closes a descriptor and deletes the knotes of its number: `int close(int fd)`.
#[expect(
    clippy::must_use_candidate,
    reason = "a C function, called for its effect"
)]
pub extern "C" fn close(fd: c_int) -> c_int {
    result(queue_table::close(fd).map(|()| 0))
}

/// Replaces `new` by `old`: `int dup2(int old, int new)`. The knotes of `new` are deleted; a queue gets a
/// second number.
#[expect(
    clippy::must_use_candidate,
    reason = "a C function, called for its effect"
)]
pub extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    result(queue_table::dup2(old, new))
}

/// Posts `hint` (NOTE_* bits) to the file behind `fd`, as the kernel does after an operation.
/// Returns 0, or -1 and errno.
#[expect(
    clippy::must_use_candidate,
    reason = "a C function, called for its effect"
)]
pub extern "C" fn testkq_post_vnode(fd: RawFd, hint: u32) -> c_int {
    result(sys::identify(fd).map(|(node, _)| {
        for queue in queue_table::all() {
            queue.post(node, hint);
        }
        0
    }))
}
