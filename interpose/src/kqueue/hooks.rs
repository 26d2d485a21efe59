//! The functions that programs call instead of the real ones.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The program: what it passes to a hook fulfils the man page of the function of that name. `changes`
//!    is null, or `nchanges` readable structures, or no memory, which the kernel answers with EFAULT;
//!    `events` is null or `nevents` writable ones; both may be the same memory; a timeout is null, a
//!    timespec, or no memory. During the call nobody else writes to them.
//! 2. Our own: a [`Call`] does not outlive the hook that makes it.

#![expect(unsafe_code, reason = "C functions with C pointers")]

use std::ffi::{c_int, c_uint, c_void};

use libc::timespec;

use super::abi::{KEVENT_FLAG_WORKQ, Kevent, Kevent64, KeventQos, Layout};
use super::kernel::{Call, CallOptions, Real};
use super::{engine, system};
use crate::guard;

/// Makes a hooked call of the kevent family, and the real one if our code panics.
///
/// # Safety
///
/// As [`Call::new`].
unsafe fn hooked<L: Layout + Real>(
    kq: c_int,
    changes: (*const L, c_int),
    events: (*mut L, c_int),
    options: CallOptions,
) -> c_int {
    // SAFETY: 1 and 2: handed on as the caller promises.
    let call = unsafe { Call::new(kq, changes, events, options) };
    guard::caught(|| engine().call(call)).unwrap_or_else(|| call.unchanged(&system::ORIGINALS))
}

/// Stands for `int kevent(...)`.
///
/// # Safety
///
/// As kevent(2).
pub(crate) unsafe extern "C" fn kevent(
    kq: c_int,
    changes: *const Kevent,
    nchanges: c_int,
    events: *mut Kevent,
    nevents: c_int,
    timeout: *const timespec,
) -> c_int {
    let options = CallOptions::waiting(timeout);
    // SAFETY: 1 and 2: the very same arguments.
    unsafe { hooked(kq, (changes, nchanges), (events, nevents), options) }
}

/// Stands for `int kevent64(...)`.
///
/// # Safety
///
/// As kevent64(2).
pub(crate) unsafe extern "C" fn kevent64(
    kq: c_int,
    changes: *const Kevent64,
    nchanges: c_int,
    events: *mut Kevent64,
    nevents: c_int,
    flags: c_uint,
    timeout: *const timespec,
) -> c_int {
    let options = CallOptions {
        flags,
        ..CallOptions::waiting(timeout)
    };
    // SAFETY: 1 and 2: the very same arguments.
    unsafe { hooked(kq, (changes, nchanges), (events, nevents), options) }
}

/// Stands for `int kevent_qos(...)`. With KEVENT_FLAG_WORKQ the call concerns another queue than `kq`.
///
/// # Safety
///
/// As kevent_qos in `xnu: bsd/sys/event_private.h`.
pub(crate) unsafe extern "C" fn kevent_qos(
    kq: c_int,
    changes: *const KeventQos,
    nchanges: c_int,
    events: *mut KeventQos,
    nevents: c_int,
    data_out: *mut c_void,
    data_available: *mut usize,
    flags: c_uint,
) -> c_int {
    let options = CallOptions {
        flags,
        data_out,
        data_available,
        ..CallOptions::waiting(std::ptr::null())
    };
    if flags & KEVENT_FLAG_WORKQ != 0 {
        // SAFETY: 1 and 2: the very same arguments.
        let call = unsafe { Call::new(kq, (changes, nchanges), (events, nevents), options) };
        return call.unchanged(&system::ORIGINALS);
    }
    // SAFETY: 1 and 2: the very same arguments.
    unsafe { hooked(kq, (changes, nchanges), (events, nevents), options) }
}

/// Stands for `int kqueue(void)`.
pub(crate) extern "C" fn kqueue() -> c_int {
    let kq = system::kqueue();
    if kq >= 0 {
        guard::guarded(|| engine().opened(kq));
    }
    kq
}
