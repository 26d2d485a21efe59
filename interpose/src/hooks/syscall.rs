//! syscall(2), through which some programs read (Bun does).
//!
//! Calls with other numbers, and calls with descriptors that do not concern the shim, jump to the original:
//! vfork and clone go through here. As with the other hooks (`by_descriptor!`), the stack is untouched
//! then, and so is every register that carries an argument.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The program (syscall(2)): it passes what the call of that number asks, each argument in a register
//!    of its own. What it asks is what the hook of that call asks, with the same pointers and numbers; the
//!    kernel, too, takes the low bits where an argument is an int.
//! 2. Our own: the original of `syscall` (`real.rs`) takes up to six arguments from registers. Only calls
//!    of at most three come here, so the others, whose registers hold anything, are not looked at.
#![expect(unsafe_code, reason = "functions of the C ABI that programs call")]

use std::arch::naked_asm;
use std::ffi::{c_int, c_long, c_uint};

use crate::config::{Hook, config};
use crate::hooks::{close, dup, inotify, read};
use crate::real;

/// Stands for syscall(2).
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

/// Stands for syscall(2).
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

/// Makes the call of one of the numbers above.
///
/// # Safety
/// As syscall(2).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the kernel, too, takes the low bits of its arguments"
)]
unsafe extern "C-unwind" fn ours(number: c_long, a: usize, b: usize, c: usize) -> c_long {
    let fd = a as c_int;
    if config().is_off(Hook::Syscall) {
        // SAFETY: 1 and 2: the very same arguments.
        return unsafe { real::syscall(number, a, b, c) };
    }
    match number {
        // SAFETY: 1: read(2) into the same buffer.
        libc::SYS_read => unsafe { read::read_owned(fd, b as *mut _, c) as c_long },
        // SAFETY: 1: readv(2) into the same vectors.
        libc::SYS_readv => unsafe { read::readv_owned(fd, b as *const _, c as c_int) as c_long },
        // SAFETY: 1: ioctl(2) with the same argument.
        libc::SYS_ioctl => unsafe {
            read::ioctl_owned(fd, b as std::ffi::c_ulong, c as *mut _).into()
        },
        // SAFETY: 1: close(2) of the same number.
        libc::SYS_close => unsafe { close::close_owned(fd).into() },
        // SAFETY: 1: inotify_rm_watch(2) with the same numbers.
        libc::SYS_inotify_rm_watch => unsafe { inotify::rm_watch_owned(fd, b as c_int).into() },
        // SAFETY: 1: inotify_add_watch(2) with the same path.
        libc::SYS_inotify_add_watch => unsafe {
            inotify::inotify_add_watch(fd, b as *const _, c as u32).into()
        },
        // SAFETY: 1: inotify_init1(2), whose argument is a number.
        libc::SYS_inotify_init1 => unsafe { inotify::inotify_init1(fd).into() },
        // SAFETY: 1: dup(2) of the same number.
        libc::SYS_dup => unsafe { dup::dup_owned(fd).into() },
        // SAFETY: 1: dup3(2) with the same numbers.
        libc::SYS_dup3 => unsafe { dup::dup3(fd, b as c_int, c as c_int).into() },
        // SAFETY: 1: fcntl(2) with the same argument.
        libc::SYS_fcntl => unsafe { dup::fcntl_owned(fd, b as c_int, c).into() },
        // SAFETY: 1: close_range(2) with the same numbers.
        libc::SYS_close_range => unsafe {
            close::close_range(a as c_uint, b as c_uint, c as c_int).into()
        },
        // SAFETY: 1 and 2: the very same arguments.
        _ => unsafe { of_this_architecture(number, a, b, c) },
    }
}

/// Makes the calls that only older architectures have.
///
/// # Safety
/// As syscall(2).
#[cfg(target_arch = "x86_64")]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the kernel, too, takes the low bits of its arguments"
)]
unsafe fn of_this_architecture(number: c_long, a: usize, b: usize, c: usize) -> c_long {
    match number {
        // SAFETY: 1: inotify_init(2), which has no argument.
        libc::SYS_inotify_init => unsafe { inotify::inotify_init().into() },
        // SAFETY: 1: dup2(2) with the same numbers.
        libc::SYS_dup2 => unsafe { dup::dup2(a as c_int, b as c_int).into() },
        // SAFETY: 1 and 2: the very same arguments.
        _ => unsafe { real::syscall(number, a, b, c) },
    }
}

/// Makes no call by itself: this architecture has only the newer calls.
///
/// # Safety
/// As syscall(2).
#[cfg(target_arch = "aarch64")]
unsafe fn of_this_architecture(number: c_long, a: usize, b: usize, c: usize) -> c_long {
    // SAFETY: 1 and 2: the very same arguments.
    unsafe { real::syscall(number, a, b, c) }
}
