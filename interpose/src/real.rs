//! The functions that the hooks stand in front of.
//!
//! Each has a word that holds its address. Until it is looked up the word leads to a stub that looks
//! all of them up and then goes on to the original, with the registers as the program left them. So
//! a hook never asks whether the addresses are known, and constructors of other libraries, which run
//! before ours, are served as well.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. Our own: the word of an [`Original`] holds a callable address at any time: its stub's, which jumps
//!    to the original with all arguments in place, the original's, or that of [`missing`], which looks at
//!    no argument and returns -1. Its name in `originals!` decides the C function, and the functions below
//!    give each word the type that the header declares for that name. The variadic ones among them
//!    (ioctl, fcntl, syscall) read their arguments from the same registers as fixed ones.
//! 2. libc (dlsym(3), dlvsym(3)): both take `RTLD_NEXT` and strings that end with a NUL, and return null
//!    or the address of what has that name; a function's address is never unloaded while this library,
//!    which is preloaded, and its libc are there.
//! 3. The caller of a function below promises what the man page asks of the arguments.
//! 4. The ABI: a function pointer has the size of a data pointer, and the same representation.
#![expect(unsafe_code, reason = "looks up and calls functions of libc")]

use std::arch::naked_asm;
use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::guard;

/// The address of an original.
#[derive(Debug)]
pub(crate) struct Original(AtomicPtr<()>);

impl Original {
    const fn new(stub: unsafe extern "C" fn()) -> Self {
        Self(AtomicPtr::new(stub as *mut ()))
    }

    /// Returns its address, or that of its stub.
    pub(crate) fn address(&self) -> *mut () {
        // Relaxed: the code behind it does not change.
        self.0.load(Ordering::Relaxed)
    }

    /// Returns the original as a function pointer.
    ///
    /// # Safety
    /// * `F` is the type of the original's function.
    pub(crate) unsafe fn function<F: Copy>(&self) -> F {
        const { assert!(size_of::<F>() == size_of::<*mut ()>()) };
        // SAFETY: 1 and 4: the word is a callable address, never null, of the size of `F`, which is
        // asserted; that the function behind it has the type `F` is the caller's promise.
        unsafe { std::mem::transmute_copy(&self.address()) }
    }
}

/// Makes the stub of an original: it keeps every argument, looks all originals up, and jumps to this one.
#[cfg(target_arch = "x86_64")]
macro_rules! first_use {
    ($original:ident) => {
        naked_asm!(
            "push rdi",
            "push rsi",
            "push rdx",
            "push rcx",
            "push r8",
            "push r9",
            "push rax",
            "call {resolve}",
            "pop rax",
            "pop r9",
            "pop r8",
            "pop rcx",
            "pop rdx",
            "pop rsi",
            "pop rdi",
            "mov r11, [rip + {original}@GOTPCREL]",
            "jmp [r11]",
            resolve = sym resolve,
            original = sym $original,
        )
    };
}

#[cfg(target_arch = "aarch64")]
macro_rules! first_use {
    ($original:ident) => {
        naked_asm!(
            "stp x29, x30, [sp, #-80]!",
            "mov x29, sp",
            "stp x0, x1, [sp, #16]",
            "stp x2, x3, [sp, #32]",
            "stp x4, x5, [sp, #48]",
            "stp x6, x7, [sp, #64]",
            "bl {resolve}",
            "ldp x0, x1, [sp, #16]",
            "ldp x2, x3, [sp, #32]",
            "ldp x4, x5, [sp, #48]",
            "ldp x6, x7, [sp, #64]",
            "ldp x29, x30, [sp], #80",
            "adrp x16, :got:{original}",
            "ldr x16, [x16, :got_lo12:{original}]",
            "ldr x16, [x16]",
            "br x16",
            resolve = sym resolve,
            original = sym $original,
        )
    };
}

macro_rules! originals {
    ($( $original:ident = $name:literal, )+) => {
        $(
            pub(crate) static $original: Original = {
                #[unsafe(naked)]
                unsafe extern "C" fn stub() {
                    first_use!($original)
                }
                Original::new(stub)
            };
        )+

        const ALL: &[(&Original, &CStr)] = &[$( (&$original, $name), )+];
    };
}

originals! {
    READ = c"read",
    DUNDER_READ = c"__read",
    READ_CHK = c"__read_chk",
    READV = c"readv",
    IOCTL = c"ioctl",
    CLOSE = c"close",
    DUNDER_CLOSE = c"__close",
    CLOSE_RANGE = c"close_range",
    CLOSEFROM = c"closefrom",
    DUP = c"dup",
    DUP2 = c"dup2",
    DUP3 = c"dup3",
    FCNTL = c"fcntl",
    FCNTL64 = c"fcntl64",
    INOTIFY_INIT = c"inotify_init",
    INOTIFY_INIT1 = c"inotify_init1",
    INOTIFY_ADD_WATCH = c"inotify_add_watch",
    INOTIFY_RM_WATCH = c"inotify_rm_watch",
    SYSCALL = c"syscall",
    DLSYM = c"dlsym",
}

unsafe extern "C" {
    fn dlvsym(handle: *mut c_void, name: *const c_char, version: *const c_char) -> *mut c_void;
}

type Dlsym = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;

/// The versions under which glibc has dlsym: since 2.34, and before that on x86-64 and on aarch64.
const DLSYM_VERSIONS: [&CStr; 3] = [c"GLIBC_2.34", c"GLIBC_2.2.5", c"GLIBC_2.17"];

/// Looks all originals up. May run twice, in two threads: the addresses are the same.
pub(crate) extern "C" fn resolve() {
    let Some(dlsym) = original_dlsym() else {
        return;
    };
    for (original, name) in ALL {
        // SAFETY: 2: the handle is `RTLD_NEXT`, and the name a C string.
        let found = unsafe { dlsym(libc::RTLD_NEXT, name.as_ptr()) };
        let address = if found.is_null() {
            missing as *mut ()
        } else {
            found.cast()
        };
        original.0.store(address, Ordering::Relaxed);
    }
    DLSYM.0.store(dlsym as *mut (), Ordering::Relaxed);
}

/// Looks the original dlsym up by version, because the first `dlsym` there is is the hook.
fn original_dlsym() -> Option<Dlsym> {
    let found = DLSYM_VERSIONS.iter().find_map(|version| {
        // SAFETY: 2: the handle is `RTLD_NEXT`, and name and version are C strings.
        let found = unsafe { dlvsym(libc::RTLD_NEXT, c"dlsym".as_ptr(), version.as_ptr()) };
        (!found.is_null()).then_some(found)
    })?;
    // SAFETY: 2 and 4: not null, and the address of libc's dlsym, whose type this is.
    Some(unsafe { std::mem::transmute::<*mut c_void, Dlsym>(found) })
}

/// Stands for a function that this libc does not have.
extern "C" fn missing() -> c_long {
    guard::set_errno(libc::ENOSYS);
    -1
}

/// Calls the original read, a cancellation point: no frame that calls it may own anything.
///
/// # Safety
/// As read(2).
pub(crate) unsafe fn read(fd: c_int, buffer: *mut c_void, len: usize) -> isize {
    type Read = unsafe extern "C-unwind" fn(c_int, *mut c_void, usize) -> isize;
    // SAFETY: 1: this is the type of read(2), and may unwind when the thread is cancelled.
    let read = unsafe { READ.function::<Read>() };
    #[expect(
        ffi_unwind_calls,
        reason = "a cancelled thread unwinds from here; only plain frames are above"
    )]
    // SAFETY: 3: the very same arguments.
    unsafe {
        read(fd, buffer, len)
    }
}

macro_rules! call {
    ($(#[$doc:meta])* $name:ident, $original:ident, ($($arg:ident: $type:ty),*) -> $result:ty) => {
        $(#[$doc])*
        pub(crate) unsafe fn $name($($arg: $type),*) -> $result {
            type Function = unsafe extern "C" fn($($type),*) -> $result;
            // SAFETY: 1: the list below gives each word its own function's type.
            let function = unsafe { $original.function::<Function>() };
            // SAFETY: 3: the very same arguments.
            unsafe { function($($arg),*) }
        }
    };
}

call! {
    /// # Safety
    /// As ioctl(2).
    ioctl, IOCTL, (fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int
}
call! {
    /// # Safety
    /// As close(2).
    close, CLOSE, (fd: c_int) -> c_int
}
call! {
    /// # Safety
    /// As close_range(2).
    close_range, CLOSE_RANGE, (first: c_uint, last: c_uint, flags: c_int) -> c_int
}
call! {
    /// # Safety
    /// As closefrom(3).
    closefrom, CLOSEFROM, (first: c_int) -> ()
}
call! {
    /// # Safety
    /// As dup(2).
    dup, DUP, (fd: c_int) -> c_int
}
call! {
    /// # Safety
    /// As dup2(2).
    dup2, DUP2, (from: c_int, to: c_int) -> c_int
}
call! {
    /// # Safety
    /// As dup3(2).
    dup3, DUP3, (from: c_int, to: c_int, flags: c_int) -> c_int
}
call! {
    /// # Safety
    /// As fcntl(2).
    fcntl, FCNTL, (fd: c_int, command: c_int, argument: usize) -> c_int
}
call! {
    /// # Safety
    /// As inotify_init(2).
    inotify_init, INOTIFY_INIT, () -> c_int
}
call! {
    /// # Safety
    /// As inotify_init1(2).
    inotify_init1, INOTIFY_INIT1, (flags: c_int) -> c_int
}
call! {
    /// # Safety
    /// As inotify_add_watch(2).
    inotify_add_watch, INOTIFY_ADD_WATCH, (fd: c_int, path: *const c_char, mask: u32) -> c_int
}
call! {
    /// # Safety
    /// As inotify_rm_watch(2).
    inotify_rm_watch, INOTIFY_RM_WATCH, (fd: c_int, wd: c_int) -> c_int
}
call! {
    /// # Safety
    /// As syscall(2).
    syscall, SYSCALL, (number: c_long, a: usize, b: usize, c: usize) -> c_long
}
call! {
    /// Resolves `RTLD_NEXT` as seen from this library: only for real handles.
    ///
    /// # Safety
    /// As dlsym(3).
    dlsym, DLSYM, (handle: *mut c_void, name: *const c_char) -> *mut c_void
}

/// Has [`at_load`] run when the library is loaded, in most programs before any hook is called.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

extern "C" fn at_load() {
    resolve();
    let _ = crate::config::config();
}
