//! read and its other names, and the count of readable bytes.
#![expect(unsafe_code, reason = "functions of the C ABI that programs call")]

use std::ffi::{c_int, c_ulong, c_void};

use crate::config::{Hook, config};
use crate::hooks::by_descriptor;
use crate::inotify;
use crate::real;

by_descriptor! {
    /// read(2)
    read => READ, read_owned
}
by_descriptor! {
    /// The name by which libc's own headers and some libraries call it.
    __read => DUNDER_READ, read_owned
}
by_descriptor! {
    /// read(2) in a program built with `_FORTIFY_SOURCE`.
    __read_chk => READ_CHK, read_chk_owned
}
by_descriptor! {
    /// readv(2)
    readv => READV, readv_owned
}
by_descriptor! {
    /// ioctl(2), for `FIONREAD`.
    ioctl => IOCTL, ioctl_owned
}

pub(crate) unsafe extern "C-unwind" fn read_owned(
    fd: c_int,
    buffer: *mut c_void,
    len: usize,
) -> isize {
    if config().is_off(Hook::Read) {
        // SAFETY: the program's own arguments.
        return unsafe { real::read(fd, buffer, len) };
    }
    // SAFETY: the program's own arguments.
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
        // SAFETY: the word holds a function of this type.
        let original = unsafe { real::READ_CHK.function::<ReadChk>() };
        #[expect(ffi_unwind_calls, reason = "it ends the program")]
        // SAFETY: the program's own arguments.
        return unsafe { original(fd, buffer, len, room) };
    }
    // SAFETY: the program's own arguments.
    unsafe { read_owned(fd, buffer, len) }
}

/// The kernel fills one buffer after the other with whole events and stops at the first that is not
/// full to its last byte (`fs/read_write.c: do_loop_readv_writev`). Events hardly ever fill one, so
/// only the first buffer that has room is used.
pub(crate) unsafe extern "C-unwind" fn readv_owned(
    fd: c_int,
    buffers: *const libc::iovec,
    count: c_int,
) -> isize {
    let count = usize::try_from(count).unwrap_or(0);
    if buffers.is_null() || count == 0 {
        // SAFETY: nothing is read into; the original says what is wrong.
        return unsafe { read_owned(fd, std::ptr::null_mut(), 0) };
    }
    // SAFETY: the program's own arguments: `count` buffers.
    let buffers = unsafe { std::slice::from_raw_parts(buffers, count) };
    let (buffer, len) = buffers
        .iter()
        .find(|it| it.iov_len > 0)
        .map_or((std::ptr::null_mut(), 0), |it| (it.iov_base, it.iov_len));
    // SAFETY: a buffer of the program.
    unsafe { read_owned(fd, buffer, len) }
}

pub(crate) unsafe extern "C" fn ioctl_owned(
    fd: c_int,
    request: c_ulong,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the program's own arguments.
    let result = unsafe { real::ioctl(fd, request, argument) };
    if result == 0 && request == libc::FIONREAD && !config().is_off(Hook::Ioctl) {
        let count = argument.cast::<c_int>();
        // SAFETY: the kernel has just written an int there.
        let kernel = unsafe { count.read_unaligned() };
        let all = inotify::readable_bytes(fd, kernel);
        // SAFETY: as above.
        unsafe { count.write_unaligned(all) };
    }
    result
}
