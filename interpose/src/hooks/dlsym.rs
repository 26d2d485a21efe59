//! dlsym(3): programs that look libc's functions up on a handle of libc (most Python bindings, Ruby's
//! FFI) would find the originals.
//!
//! `RTLD_NEXT` means "after the library that calls". So a look-up that does not concern a hook jumps to the
//! original, which then sees the program as its caller.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The program (dlsym(3)): the handle is one of dlopen(3) that is still open, or a special one, and
//!    the name is a string that ends with a NUL and that nobody changes during the call. A null name,
//!    which the original refuses or crashes on, is left to it.
#![expect(unsafe_code, reason = "functions of the C ABI that programs call")]

use std::arch::naked_asm;
use std::ffi::{CStr, c_char, c_void};

use crate::config::{Hook, config};
use crate::guard::guarded;
use crate::hooks::{close, dup, inotify, read, syscall};
use crate::real::{self, Original};

/// Stands for dlsym(3). Both arguments are kept on the stack, which stays aligned for the call between, and
/// are back in their registers at the jump.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn dlsym() {
    naked_asm!(
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {target}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "jmp rax",
        target = sym target,
    )
}

/// Stands for dlsym(3). Both arguments are kept on the stack, which stays aligned for the call between, and
/// are back in their registers at the jump.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn dlsym() {
    naked_asm!(
        "stp x29, x30, [sp, #-32]!",
        "mov x29, sp",
        "stp x0, x1, [sp, #16]",
        "bl {target}",
        "mov x16, x0",
        "ldp x0, x1, [sp, #16]",
        "ldp x29, x30, [sp], #32",
        "br x16",
        target = sym target,
    )
}

/// Returns where a call of dlsym goes: to the original, or to [`on_handle`].
///
/// # Safety
/// As dlsym(3).
unsafe extern "C" fn target(handle: *mut c_void, name: *const c_char) -> *const () {
    // RTLD_DEFAULT finds the hooks by itself, and RTLD_NEXT depends on the library that calls.
    let is_special = handle.is_null() || handle == libc::RTLD_NEXT || name.is_null();
    if !is_special && !config().is_off(Hook::Dlsym) {
        // SAFETY: 1: not null, so a string, which outlives the call in which it is borrowed.
        let name = unsafe { CStr::from_ptr(name) };
        if guarded(|| find(name).is_some()) == Some(true) {
            return on_handle as *const ();
        }
    }
    real::DLSYM.address().cast_const()
}

/// Looks a name up on a handle. Returns the hook where the name leads to the original of the hook.
///
/// # Safety
/// As dlsym(3).
unsafe extern "C" fn on_handle(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    // SAFETY: 1: the very same arguments, and no special handle, which would depend on the caller.
    let found = unsafe { real::dlsym(handle, name) };
    // SAFETY: 1: `target` has seen that it is not null, so a string, which outlives this call.
    let name = unsafe { CStr::from_ptr(name) };
    match find(name) {
        // Only if the handle leads to the very function that the hook stands in front of.
        Some((original, hook)) if found.cast() == original.address() => hook as *mut c_void,
        _ => found,
    }
}

type Function = unsafe extern "C" fn();

/// Returns a hook and its original by name.
fn find(name: &CStr) -> Option<(&'static Original, *const ())> {
    let found = match name.to_bytes() {
        b"read" => (&real::READ, read::read as Function as *const ()),
        b"__read" => (&real::DUNDER_READ, read::__read as Function as *const ()),
        b"__read_chk" => (&real::READ_CHK, read::__read_chk as Function as *const ()),
        b"readv" => (&real::READV, read::readv as Function as *const ()),
        b"ioctl" => (&real::IOCTL, read::ioctl as Function as *const ()),
        b"close" => (&real::CLOSE, close::close as Function as *const ()),
        b"__close" => (&real::DUNDER_CLOSE, close::__close as Function as *const ()),
        b"close_range" => (&real::CLOSE_RANGE, close::close_range as *const ()),
        b"closefrom" => (&real::CLOSEFROM, close::closefrom as *const ()),
        b"dup" => (&real::DUP, dup::dup as Function as *const ()),
        b"dup2" => (&real::DUP2, dup::dup2 as *const ()),
        b"dup3" => (&real::DUP3, dup::dup3 as *const ()),
        b"fcntl" => (&real::FCNTL, dup::fcntl as Function as *const ()),
        b"fcntl64" => (&real::FCNTL64, dup::fcntl64 as Function as *const ()),
        b"inotify_init" => (&real::INOTIFY_INIT, inotify::inotify_init as *const ()),
        b"inotify_init1" => (&real::INOTIFY_INIT1, inotify::inotify_init1 as *const ()),
        b"inotify_add_watch" => (
            &real::INOTIFY_ADD_WATCH,
            inotify::inotify_add_watch as *const (),
        ),
        b"inotify_rm_watch" => (
            &real::INOTIFY_RM_WATCH,
            inotify::inotify_rm_watch as Function as *const (),
        ),
        b"syscall" => (&real::SYSCALL, syscall::syscall as Function as *const ()),
        b"dlsym" => (&real::DLSYM, dlsym as Function as *const ()),
        _ => return None,
    };
    Some(found)
}
