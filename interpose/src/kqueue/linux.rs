//! Linux: kqueue comes from whichever library the program has it from, if any.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. libc (dlsym(3)): it takes `RTLD_NEXT` and a string that ends with a NUL, and returns null or the
//!    address of what has that name in a library behind this one.
//! 2. Whatever library has a function of the kevent family gives it the type of `<sys/event.h>`: programs
//!    are compiled against that. It is not unloaded while the program has a queue of it. A function pointer
//!    has the size and the representation of a data pointer.
//! 3. The program: what it passes to an exported function fulfils the man page of that name.

#![expect(
    unsafe_code,
    reason = "symbols of other libraries, and C names for ours"
)]

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use agentfs_ring::doorbell::BellKind;
use libc::timespec;
use rustix::fs::OFlags;

use super::abi::{Kevent, Kevent64, KeventQos};
use super::hooks;
use super::kernel::{Errno, Kevent64Fn, KeventFn, KeventQosFn, Originals};

/// The functions that come after the hooks in the order of symbol look-up.
pub(crate) const ORIGINALS: Originals = Originals {
    kevent: next_kevent,
    kevent64: next_kevent64,
    kevent_qos: next_kevent_qos,
};

/// What the daemon's refill doorbell is.
pub(crate) const REFILL_BELL: BellKind = BellKind::EventFd;

/// How a directory is opened that is only watched.
pub(crate) const TO_WATCH: OFlags = OFlags::RDONLY;

/// A symbol behind a hook, looked up once.
struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            found: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn get(&self) -> Option<*mut c_void> {
        let known = self.found.load(Ordering::Relaxed);
        if !known.is_null() {
            return Some(known);
        }
        // SAFETY: 1: the handle is `RTLD_NEXT`, and the name a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        (!found.is_null()).then_some(found)
    }
}

fn missing() -> c_int {
    Errno(libc::ENOSYS).set();
    -1
}

pub(crate) fn kqueue() -> c_int {
    static NEXT: Next = Next::new(c"kqueue");
    let Some(next) = NEXT.get() else {
        return missing();
    };
    // SAFETY: 2: not null, and the function of this name, which has this type.
    let next: extern "C" fn() -> c_int = unsafe { std::mem::transmute(next) };
    next()
}

unsafe extern "C" fn next_kevent(
    kq: c_int,
    changes: *const Kevent,
    nchanges: c_int,
    events: *mut Kevent,
    nevents: c_int,
    timeout: *const timespec,
) -> c_int {
    static NEXT: Next = Next::new(c"kevent");
    let Some(next) = NEXT.get() else {
        return missing();
    };
    // SAFETY: 2: not null, and the function of this name, which has this type.
    let next: KeventFn = unsafe { std::mem::transmute(next) };
    // SAFETY: by the promise of this function's caller: the very same arguments.
    unsafe { next(kq, changes, nchanges, events, nevents, timeout) }
}

unsafe extern "C" fn next_kevent64(
    kq: c_int,
    changes: *const Kevent64,
    nchanges: c_int,
    events: *mut Kevent64,
    nevents: c_int,
    flags: c_uint,
    timeout: *const timespec,
) -> c_int {
    static NEXT: Next = Next::new(c"kevent64");
    let Some(next) = NEXT.get() else {
        return missing();
    };
    // SAFETY: 2: not null, and the function of this name, which has this type.
    let next: Kevent64Fn = unsafe { std::mem::transmute(next) };
    // SAFETY: by the promise of this function's caller: the very same arguments.
    unsafe { next(kq, changes, nchanges, events, nevents, flags, timeout) }
}

unsafe extern "C" fn next_kevent_qos(
    kq: c_int,
    changes: *const KeventQos,
    nchanges: c_int,
    events: *mut KeventQos,
    nevents: c_int,
    out: *mut c_void,
    available: *mut usize,
    flags: c_uint,
) -> c_int {
    static NEXT: Next = Next::new(c"kevent_qos");
    let Some(next) = NEXT.get() else {
        return missing();
    };
    // SAFETY: 2: not null, and the function of this name, which has this type.
    let next: KeventQosFn = unsafe { std::mem::transmute(next) };
    // SAFETY: by the promise of this function's caller: the very same arguments.
    unsafe {
        next(
            kq, changes, nchanges, events, nevents, out, available, flags,
        )
    }
}

/// The hooks under their C names. They take precedence over a kqueue library because the shim is
/// loaded first.
mod exports {
    use super::{Kevent, Kevent64, KeventQos, c_int, c_uint, c_void, hooks, timespec};

    #[unsafe(no_mangle)]
    extern "C" fn kqueue() -> c_int {
        hooks::kqueue()
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn kevent(
        kq: c_int,
        changes: *const Kevent,
        nchanges: c_int,
        events: *mut Kevent,
        nevents: c_int,
        timeout: *const timespec,
    ) -> c_int {
        // SAFETY: 3: the very same arguments.
        unsafe { hooks::kevent(kq, changes, nchanges, events, nevents, timeout) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn kevent64(
        kq: c_int,
        changes: *const Kevent64,
        nchanges: c_int,
        events: *mut Kevent64,
        nevents: c_int,
        flags: c_uint,
        timeout: *const timespec,
    ) -> c_int {
        // SAFETY: 3: the very same arguments.
        unsafe { hooks::kevent64(kq, changes, nchanges, events, nevents, flags, timeout) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn kevent_qos(
        kq: c_int,
        changes: *const KeventQos,
        nchanges: c_int,
        events: *mut KeventQos,
        nevents: c_int,
        out: *mut c_void,
        available: *mut usize,
        flags: c_uint,
    ) -> c_int {
        // SAFETY: 3: the very same arguments.
        unsafe {
            hooks::kevent_qos(
                kq, changes, nchanges, events, nevents, out, available, flags,
            )
        }
    }
}
