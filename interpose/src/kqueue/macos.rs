//! macOS: the `__interpose` section, and the real functions.
//!
//! dyld rebinds every use of a replacee to its replacement, but not in this image: here the plain
//! name is the real function (`dyld: Loader::applyInterposing`). dlsym() cannot serve for that, because it
//! returns the replacement to every image.
//!
//! fork(2) needs no entry: libSystem runs our handler in the child (pthread_atfork). poll(2) with the vnode
//! bits POLLEXTEND to POLLWRITE goes past every kevent call and is not hooked.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The program: what it passes to a hook fulfils the man page of the function of that name, or for the
//!    guarded ones what `xnu: bsd/kern/kern_guarded.c` asks: the guard is null or points to a `guardid_t`,
//!    or is no memory, which the kernel answers with EFAULT.
//! 2. The kernel (fcntl(2)): `F_GETFD` looks at a number and at nothing else.
//! 3. Our own: a [`Tuple`] is made of addresses of functions, is never written, and nothing is read
//!    through it in this library.
//! 4. libSystem: the functions declared here exist under their link names with these types. Those that
//!    take numbers alone check them, so they are `safe`.

#![expect(
    unsafe_code,
    reason = "the functions of libSystem, and the table that dyld reads"
)]

use std::ffi::{c_int, c_uint, c_void};

use agentfs_ring::doorbell::BellKind;
use libc::timespec;
use rustix::fs::OFlags;

use super::abi::{Kevent, Kevent64, KeventQos};
use super::kernel::Originals;
use super::{engine, hooks};
use crate::fd_table::{self, Owner};
use crate::{guard, platform, process};

/// `guardid_t` of `<sys/guarded.h>`.
type GuardId = u64;

unsafe extern "C" {
    #[link_name = "kqueue"]
    safe fn real_kqueue() -> c_int;
    #[link_name = "guarded_kqueue_np"]
    fn real_guarded_kqueue_np(guard: *const GuardId, flags: c_uint) -> c_int;
    #[link_name = "kevent"]
    fn real_kevent(
        kq: c_int,
        changes: *const Kevent,
        nchanges: c_int,
        events: *mut Kevent,
        nevents: c_int,
        timeout: *const timespec,
    ) -> c_int;
    #[link_name = "kevent64"]
    fn real_kevent64(
        kq: c_int,
        changes: *const Kevent64,
        nchanges: c_int,
        events: *mut Kevent64,
        nevents: c_int,
        flags: c_uint,
        timeout: *const timespec,
    ) -> c_int;
    #[link_name = "kevent_qos"]
    fn real_kevent_qos(
        kq: c_int,
        changes: *const KeventQos,
        nchanges: c_int,
        events: *mut KeventQos,
        nevents: c_int,
        data_out: *mut c_void,
        data_available: *mut usize,
        flags: c_uint,
    ) -> c_int;
    #[link_name = "close"]
    safe fn real_close(fd: c_int) -> c_int;
    #[link_name = "close$NOCANCEL"]
    safe fn real_close_nocancel(fd: c_int) -> c_int;
    #[link_name = "guarded_close_np"]
    fn real_guarded_close_np(fd: c_int, guard: *const GuardId) -> c_int;
    #[link_name = "dup"]
    safe fn real_dup(fd: c_int) -> c_int;
    #[link_name = "dup2"]
    safe fn real_dup2(old: c_int, new: c_int) -> c_int;
}

pub(crate) const ORIGINALS: Originals = Originals {
    kevent: real_kevent,
    kevent64: real_kevent64,
    kevent_qos: real_kevent_qos,
};

/// What the daemon's refill doorbell is.
pub(crate) const REFILL_BELL: BellKind = BellKind::Pipe;

/// How a directory is opened that is only watched. O_EVTONLY does not keep a volume from being unmounted.
pub(crate) const TO_WATCH: OFlags = OFlags::from_bits_retain(libc::O_EVTONLY.cast_unsigned());

pub(crate) fn kqueue() -> c_int {
    real_kqueue()
}

unsafe extern "C" fn guarded_kqueue_np(guard: *const GuardId, flags: c_uint) -> c_int {
    // SAFETY: 1 and 4: the very same arguments.
    let kq = unsafe { real_guarded_kqueue_np(guard, flags) };
    if kq >= 0 {
        guard::guarded(|| engine().opened(kq));
    }
    kq
}

/// Returns whether the program may close a descriptor: not a hidden one, which it has not opened. A child of
/// vfork may close any, because it closes copies, and the tables are its parent's.
fn may_close(fd: c_int) -> bool {
    if fd_table::get(fd) == Owner::Foreign || !process::owns_state() {
        return true;
    }
    if engine().hides(fd) {
        guard::set_errno(libc::EBADF);
        return false;
    }
    guard::guarded(|| platform::closing(fd));
    true
}

extern "C" fn close(fd: c_int) -> c_int {
    if may_close(fd) { real_close(fd) } else { -1 }
}

extern "C" fn close_nocancel(fd: c_int) -> c_int {
    if may_close(fd) {
        real_close_nocancel(fd)
    } else {
        -1
    }
}

unsafe extern "C" fn guarded_close_np(fd: c_int, guard: *const GuardId) -> c_int {
    // A wrong guard ends the process, or the call fails; at worst a queue is forgotten too early.
    if !may_close(fd) {
        return -1;
    }
    // SAFETY: 1 and 4: the very same arguments.
    unsafe { real_guarded_close_np(fd, guard) }
}

extern "C" fn dup(fd: c_int) -> c_int {
    let new = real_dup(fd);
    if new >= 0 {
        guard::guarded(|| platform::duplicated(fd, new));
    }
    new
}

extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    // With nothing to put in its place, `new` stays open.
    if old == new || is_closed(old) || !process::owns_state() {
        return real_dup2(old, new);
    }
    guard::guarded(|| {
        super::vacate(new);
        platform::closing(new);
    });
    let result = real_dup2(old, new);
    if result >= 0 {
        guard::guarded(|| platform::duplicated(old, new));
    }
    result
}

fn is_closed(fd: c_int) -> bool {
    // SAFETY: 2: this command takes no third argument.
    unsafe { libc::fcntl(fd, libc::F_GETFD) == -1 }
}

/// One entry of the table.
#[repr(C)]
struct Tuple {
    replacement: *const c_void,
    replacee: *const c_void,
}

// SAFETY: 3: it is never written, so threads may share it; dyld has read it before any of them runs.
unsafe impl Sync for Tuple {}

macro_rules! tuples {
    ($($replacement:path => $replacee:path),+ $(,)?) => {
        #[used]
        #[unsafe(link_section = "__DATA,__interpose")]
        static TUPLES: [Tuple; [$(stringify!($replacee)),+].len()] = [$(Tuple {
            replacement: $replacement as *const c_void,
            replacee: $replacee as *const c_void,
        }),+];
    };
}

tuples! {
    hooks::kqueue => real_kqueue,
    guarded_kqueue_np => real_guarded_kqueue_np,
    hooks::kevent => real_kevent,
    hooks::kevent64 => real_kevent64,
    hooks::kevent_qos => real_kevent_qos,
    close => real_close,
    close_nocancel => real_close_nocancel,
    guarded_close_np => real_guarded_close_np,
    dup => real_dup,
    dup2 => real_dup2,
}
