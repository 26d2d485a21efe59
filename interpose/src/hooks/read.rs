//! read and its other names, and the count of readable bytes.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The program: what it passes to a hook fulfils the man page of the function of that name. A buffer
//!    is writable for the length that comes with it, or no memory at all, which the kernel answers with
//!    EFAULT; during the call nobody else uses it.
//! 2. The program (readv(2)): `buffers` is null or points to `count` vectors, aligned as C aligns them,
//!    which nobody changes during the call.
//! 3. The kernel (ioctl(2)): when `FIONREAD` succeeds, it has written an `int` through the argument.
//! 4. Our own: `READ_CHK` is the original of `__read_chk` (`real.rs`), which has the type given to it.
#![expect(unsafe_code, reason = "functions of the C ABI that programs call")]

use std::ffi::{c_int, c_ulong, c_void};

use crate::config::{Hook, config};
use crate::hooks::by_descriptor;
use crate::inotify;
use crate::real;

by_descriptor! {
    /// Stands for read(2).
    read => READ, read_owned
}
by_descriptor! {
    /// Stands for read(2) under the name by which libc's own headers and some libraries call it.
    __read => DUNDER_READ, read_owned
}
by_descriptor! {
    /// Stands for read(2) in a program built with `_FORTIFY_SOURCE`.
    __read_chk => READ_CHK, read_chk_owned
}
by_descriptor! {
    /// Stands for readv(2).
    readv => READV, readv_owned
}
by_descriptor! {
    /// Stands for ioctl(2), because of `FIONREAD`.
    ioctl => IOCTL, ioctl_owned
}

pub(crate) unsafe extern "C-unwind" fn read_owned(
    fd: c_int,
    buffer: *mut c_void,
    len: usize,
) -> isize {
    if config().is_off(Hook::Read) {
        // SAFETY: 1: the very same arguments.
        return unsafe { real::read(fd, buffer, len) };
    }
    // SAFETY: 1: the very same arguments, for what read(2) asks.
    unsafe { inotify::read(fd, buffer, len) }
}

unsafe extern "C-unwind" fn read_chk_owned(
    fd: c_int,
    buffer: *mut c_void,
    len: usize,
    room: usize,
) -> isize {
    if len > room {
        type ReadChk = unsafe extern "C-unwind" fn(c_int, *mut c_void, usize, usize) -> isize;
        // SAFETY: 4: it is the type of that function.
        let original = unsafe { real::READ_CHK.function::<ReadChk>() };
        #[expect(ffi_unwind_calls, reason = "it ends the program")]
        // SAFETY: 1: the very same arguments; it writes nothing, because `len` is beyond `room`.
        return unsafe { original(fd, buffer, len, room) };
    }
    // SAFETY: 1: the buffer has `room` bytes, and `len` is no more.
    unsafe { read_owned(fd, buffer, len) }
}

/// Reads into the first buffer that has room. The kernel fills one buffer after the other with whole
/// events and stops at the first that is not full to its last byte (`fs/read_write.c:
/// do_loop_readv_writev`); events hardly ever fill one.
///
/// # Safety
/// As readv(2).
pub(crate) unsafe extern "C-unwind" fn readv_owned(
    fd: c_int,
    buffers: *const libc::iovec,
    count: c_int,
) -> isize {
    let count = usize::try_from(count).unwrap_or(0);
    if buffers.is_null() || count == 0 {
        // SAFETY: 1: a buffer of no bytes may be null.
        return unsafe { read_owned(fd, std::ptr::null_mut(), 0) };
    }
    // SAFETY: 2: not null, `count` vectors in one array, aligned and unchanged for the time of the call;
    // an array of the program is no longer than `isize::MAX` bytes.
    let buffers = unsafe { std::slice::from_raw_parts(buffers, count) };
    let (buffer, len) = buffers
        .iter()
        .find(|it| it.iov_len > 0)
        .map_or((std::ptr::null_mut(), 0), |it| (it.iov_base, it.iov_len));
    // SAFETY: 1 and 2: a buffer of the program with its own length, or null with none.
    unsafe { read_owned(fd, buffer, len) }
}

pub(crate) unsafe extern "C" fn ioctl_owned(
    fd: c_int,
    request: c_ulong,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: 1: the very same arguments; the third is passed as the register that holds it.
    let result = unsafe { real::ioctl(fd, request, argument) };
    if result == 0 && request == libc::FIONREAD && !config().is_off(Hook::Ioctl) {
        let count = argument.cast::<c_int>();
        // SAFETY: 3: an initialised int is there; no alignment is assumed.
        let kernel = unsafe { count.read_unaligned() };
        let all = inotify::readable_bytes(fd, kernel);
        // SAFETY: 3 and 1: the place is writable for an int and nobody else's; no alignment is assumed.
        unsafe { count.write_unaligned(all) };
    }
    result
}
