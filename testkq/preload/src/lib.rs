//! The user-space kqueue of [`agentfs_testkq`] under the C names, as a library to link or preload.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The program: it promises of its arguments what the man page asks, which is what the function of
//!    [`agentfs_testkq`] with the same name asks; they are handed on as they came.

#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "it exports C symbols that take C pointers")]

use std::ffi::{c_int, c_uint, c_void};

use agentfs_testkq::abi::{Kevent, Kevent64, KeventQos};

/// See [`agentfs_testkq::kqueue`].
#[unsafe(no_mangle)]
pub extern "C" fn kqueue() -> c_int {
    agentfs_testkq::kqueue()
}

/// See [`agentfs_testkq::kevent`].
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kevent(
    kq: c_int,
    changes: *const Kevent,
    nchanges: c_int,
    events: *mut Kevent,
    nevents: c_int,
    timeout: *const libc::timespec,
) -> c_int {
    // SAFETY: 1: the very same arguments.
    unsafe { agentfs_testkq::kevent(kq, changes, nchanges, events, nevents, timeout) }
}

/// See [`agentfs_testkq::kevent64`].
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kevent64(
    kq: c_int,
    changes: *const Kevent64,
    nchanges: c_int,
    events: *mut Kevent64,
    nevents: c_int,
    flags: c_uint,
    timeout: *const libc::timespec,
) -> c_int {
    // SAFETY: 1: the very same arguments.
    unsafe { agentfs_testkq::kevent64(kq, changes, nchanges, events, nevents, flags, timeout) }
}

/// See [`agentfs_testkq::kevent_qos`].
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kevent_qos(
    kq: c_int,
    changes: *const KeventQos,
    nchanges: c_int,
    events: *mut KeventQos,
    nevents: c_int,
    data_out: *mut c_void,
    data_available: *mut usize,
    flags: c_uint,
) -> c_int {
    // SAFETY: 1: the very same arguments.
    unsafe {
        agentfs_testkq::kevent_qos(
            kq,
            changes,
            nchanges,
            events,
            nevents,
            data_out,
            data_available,
            flags,
        )
    }
}

/// See [`agentfs_testkq::close`].
#[unsafe(no_mangle)]
pub extern "C" fn close(fd: c_int) -> c_int {
    agentfs_testkq::close(fd)
}

/// See [`agentfs_testkq::dup2`].
#[unsafe(no_mangle)]
pub extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    agentfs_testkq::dup2(old, new)
}

/// See [`agentfs_testkq::testkq_post_vnode`].
#[unsafe(no_mangle)]
pub extern "C" fn testkq_post_vnode(fd: c_int, hint: u32) -> c_int {
    agentfs_testkq::testkq_post_vnode(fd, hint)
}
