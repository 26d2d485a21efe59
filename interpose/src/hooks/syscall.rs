//! syscall(2), through which some programs read (Bun does).
//!
//! Numbers that are not ours, and descriptors that are not ours, jump to the original: vfork and
//! clone go through here.
#![expect(unsafe_code, reason = "functions of the C ABI that programs call")]

use std::arch::naked_asm;
use std::ffi::{c_int, c_long, c_uint};

use crate::config::{Hook, config};
use crate::hooks::{close, dup, inotify, read};
use crate::real;

/// syscall(2)
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn syscall() {
    naked_asm!(
        "cmp rdi, {read}",
        "je 3f",
        "cmp rdi, {readv}",
        "je 3f",
        "cmp rdi, {ioctl}",
        "je 3f",
        "cmp rdi, {close}",
        "je 3f",
        "cmp rdi, {rm_watch}",
        "je 3f",
        "cmp rdi, {dup}",
        "je 3f",
        "cmp rdi, {fcntl}",
        "je 3f",
        "cmp rdi, {add_watch}",
        "je 4f",
        "cmp rdi, {init}",
        "je 4f",
        "cmp rdi, {init1}",
        "je 4f",
        "cmp rdi, {dup2}",
        "je 4f",
        "cmp rdi, {dup3}",
        "je 4f",
        "cmp rdi, {close_range}",
        "je 4f",
        "2:",
        "mov r11, [rip + {original}@GOTPCREL]",
        "jmp [r11]",
        "3:",
        "mov r10d, esi",
        "cmp r10d, {len}",
        "jae 2b",
        "mov r11, [rip + {table}@GOTPCREL]",
        "cmp qword ptr [r11 + r10 * 8], 0",
        "je 2b",
        "4:",
        "jmp {ours}",
        read = const libc::SYS_read,
        readv = const libc::SYS_readv,
        ioctl = const libc::SYS_ioctl,
        close = const libc::SYS_close,
        rm_watch = const libc::SYS_inotify_rm_watch,
        dup = const libc::SYS_dup,
        fcntl = const libc::SYS_fcntl,
        add_watch = const libc::SYS_inotify_add_watch,
        init = const libc::SYS_inotify_init,
        init1 = const libc::SYS_inotify_init1,
        dup2 = const libc::SYS_dup2,
        dup3 = const libc::SYS_dup3,
        close_range = const libc::SYS_close_range,
        len = const crate::fd_table::LEN,
        table = sym crate::fd_table::TABLE,
        original = sym real::SYSCALL,
        ours = sym ours,
    )
}

/// syscall(2)
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn syscall() {
    naked_asm!(
        "cmp x0, #{read}",
        "b.eq 3f",
        "cmp x0, #{readv}",
        "b.eq 3f",
        "cmp x0, #{ioctl}",
        "b.eq 3f",
        "cmp x0, #{close}",
        "b.eq 3f",
        "cmp x0, #{rm_watch}",
        "b.eq 3f",
        "cmp x0, #{dup}",
        "b.eq 3f",
        "cmp x0, #{fcntl}",
        "b.eq 3f",
        "cmp x0, #{add_watch}",
        "b.eq 4f",
        "cmp x0, #{init1}",
        "b.eq 4f",
        "cmp x0, #{dup3}",
        "b.eq 4f",
        "cmp x0, #{close_range}",
        "b.eq 4f",
        "2:",
        "adrp x16, :got:{original}",
        "ldr x16, [x16, :got_lo12:{original}]",
        "ldr x16, [x16]",
        "br x16",
        "3:",
        "mov w9, w1",
        "cmp w9, #{pages}, lsl #12",
        "b.hs 2b",
        "adrp x10, :got:{table}",
        "ldr x10, [x10, :got_lo12:{table}]",
        "ldr x10, [x10, x9, lsl #3]",
        "cbz x10, 2b",
        "4:",
        "b {ours}",
        read = const libc::SYS_read,
        readv = const libc::SYS_readv,
        ioctl = const libc::SYS_ioctl,
        close = const libc::SYS_close,
        rm_watch = const libc::SYS_inotify_rm_watch,
        dup = const libc::SYS_dup,
        fcntl = const libc::SYS_fcntl,
        add_watch = const libc::SYS_inotify_add_watch,
        init1 = const libc::SYS_inotify_init1,
        dup3 = const libc::SYS_dup3,
        close_range = const libc::SYS_close_range,
        pages = const crate::fd_table::LEN >> 12,
        table = sym crate::fd_table::TABLE,
        original = sym real::SYSCALL,
        ours = sym ours,
    )
}

/// One of the numbers above.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the kernel, too, takes the low bits of its arguments"
)]
unsafe extern "C-unwind" fn ours(number: c_long, a: usize, b: usize, c: usize) -> c_long {
    let fd = a as c_int;
    if config().is_off(Hook::Syscall) {
        // SAFETY: the program's own arguments.
        return unsafe { real::syscall(number, a, b, c) };
    }
    match number {
        // SAFETY: the program's own arguments, here and below.
        libc::SYS_read => unsafe { read::read_owned(fd, b as *mut _, c) as c_long },
        // SAFETY: as above.
        libc::SYS_readv => unsafe { read::readv_owned(fd, b as *const _, c as c_int) as c_long },
        // SAFETY: as above.
        libc::SYS_ioctl => unsafe {
            read::ioctl_owned(fd, b as std::ffi::c_ulong, c as *mut _).into()
        },
        // SAFETY: as above.
        libc::SYS_close => unsafe { close::close_owned(fd).into() },
        // SAFETY: as above.
        libc::SYS_inotify_rm_watch => unsafe { inotify::rm_watch_owned(fd, b as c_int).into() },
        // SAFETY: as above.
        libc::SYS_inotify_add_watch => unsafe {
            inotify::inotify_add_watch(fd, b as *const _, c as u32).into()
        },
        // SAFETY: as above.
        libc::SYS_inotify_init1 => unsafe { inotify::inotify_init1(fd).into() },
        // SAFETY: as above.
        libc::SYS_dup => unsafe { dup::dup_owned(fd).into() },
        // SAFETY: as above.
        libc::SYS_dup3 => unsafe { dup::dup3(fd, b as c_int, c as c_int).into() },
        // SAFETY: as above.
        libc::SYS_fcntl => unsafe { dup::fcntl_owned(fd, b as c_int, c).into() },
        // SAFETY: as above.
        libc::SYS_close_range => unsafe {
            close::close_range(a as c_uint, b as c_uint, c as c_int).into()
        },
        // SAFETY: as above.
        _ => unsafe { only_here(number, a, b, c) },
    }
}

/// A number that only this architecture has.
#[cfg(target_arch = "x86_64")]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the kernel, too, takes the low bits of its arguments"
)]
unsafe fn only_here(number: c_long, a: usize, b: usize, c: usize) -> c_long {
    match number {
        // SAFETY: no preconditions.
        libc::SYS_inotify_init => unsafe { inotify::inotify_init().into() },
        // SAFETY: the program's own arguments.
        libc::SYS_dup2 => unsafe { dup::dup2(a as c_int, b as c_int).into() },
        // SAFETY: as above.
        _ => unsafe { real::syscall(number, a, b, c) },
    }
}

#[cfg(target_arch = "aarch64")]
unsafe fn only_here(number: c_long, a: usize, b: usize, c: usize) -> c_long {
    // SAFETY: the program's own arguments.
    unsafe { real::syscall(number, a, b, c) }
}
