//! inotify: events of AgentFS among those of the kernel, in the program's own reads.
//!
//! The program keeps its real descriptor and the kernel's watches. What the kernel cannot know comes
//! through a ring, and a hidden watch makes the descriptor readable when something is in it.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. The program: it keeps a descriptor open during its own call. If another thread of it closes the
//!    number meanwhile, a system call of ours fails or works on another file, as the program's own would;
//!    no memory depends on it.
//! 2. The program (inotify_add_watch(2)): a path that the kernel has found to be a string is not changed
//!    or freed before the call returns.
//! 3. The program (read(2)): a buffer is writable for its `len` bytes, or no memory, which the kernel
//!    answers with EFAULT; nobody else uses it during the call.
//! 4. The kernel (read(2)): a result above 0 says how many bytes it has written at the start of the
//!    buffer, and is at most `len`; `len` counts no more than `isize::MAX` bytes then, because no memory
//!    is larger.
#![expect(unsafe_code, reason = "works on the buffers of the program")]

mod deliver;
mod event;
mod hidden_watch;
mod instance;
mod orphans;
mod queue;
mod register;
mod shared;
mod watch_table;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, RawFd};

use crate::fd_table::{self, Owner};
use crate::guard::{self, guarded};
use crate::mounts::{self, Object};
use crate::{fork, process, real};
use deliver::Outcome;
use event::Buffer;
use instance::Instance;

const IN_DONT_FOLLOW: u32 = 0x0200_0000;

/// Borrows a descriptor of the program for the length of one call.
fn borrow<'a>(fd: RawFd) -> Option<BorrowedFd<'a>> {
    // SAFETY: 1: not -1, and open for the one call of the program in which it is borrowed.
    (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Notes a new instance. Its number may have been that of an earlier one whose end no hook saw.
///
/// A child of vfork notes nothing, because the table is its parent's, where the number is another file's.
pub(crate) fn made(fd: RawFd) {
    fork::own_state();
    if process::owns_state() {
        closing(fd);
        hidden_watch::instance_made(fd);
        drop(Instance::new(fd));
    }
}

/// Prepares a call of `inotify_add_watch`. Returns the object, if it is on AgentFS.
///
/// # Safety
/// As inotify_add_watch(2): the path may be any pointer.
pub(crate) unsafe fn watching(fd: RawFd, path: *const c_char, mask: u32) -> Option<Object> {
    let fd = borrow(fd)?;
    let object = mounts::object(path, mask & IN_DONT_FOLLOW == 0)?;
    // SAFETY: 2: the kernel has just read it, so it is not null and a string, and stays one for this call.
    let path = unsafe { CStr::from_ptr(path) };
    mounts::is_agentfs(object, path).then(|| register::watching(fd))?;
    Some(object)
}

/// Notes that `inotify_add_watch` has succeeded, on this object, or on one that is not on AgentFS.
pub(crate) fn watched(fd: RawFd, object: Option<Object>, mask: u32, wd: c_int) {
    hidden_watch::wd_given(fd, wd);
    if let (Some(fd), Some(object)) = (borrow(fd), object) {
        register::watched(fd, object, mask, wd);
    }
}

/// Prepares a call of `inotify_rm_watch`.
pub(crate) fn unwatching(fd: RawFd, wd: c_int) {
    if let Some(instance) = Instance::of(fd) {
        register::unwatching(&instance, wd);
    }
}

/// Notes that a descriptor is about to be closed.
pub(crate) fn closing(fd: RawFd) {
    if let Some(instance) = Instance::of(fd) {
        instance.forget(fd);
    } else if fd_table::get(fd) == Owner::Hidden {
        fd_table::set(fd, Owner::Foreign);
    }
}

/// Notes that an instance has another number, too.
pub(crate) fn duplicated(from: RawFd, to: RawFd) {
    hidden_watch::duplicated(from, to);
    if let Some(instance) = Instance::of(from) {
        instance.also_at(to);
    }
}

/// Makes sure that a read does not sleep while the ring has something, before it is made.
fn before(fd: RawFd) {
    let (Some(instance), Some(borrowed)) = (Instance::of(fd), borrow(fd)) else {
        return;
    };
    let Some(state) = instance.state() else {
        return;
    };
    if let Some(queue) = state.queue() {
        queue.restore_bell(borrowed);
    } else {
        register::serve_late(borrowed, state);
    }
}

/// Returns the instance behind a descriptor, unless the number is another file's by now: fclose(3), which
/// no hook sees, may have closed it, and the kernel may have given the number again.
fn instance_at(fd: RawFd) -> Option<Instance> {
    Instance::of(fd).filter(|instance| is_still(instance, fd))
}

fn is_still(instance: &Instance, fd: RawFd) -> bool {
    // An inotify instance has no type of file (`fs/anon_inodes.c`); files, directories, pipes and sockets do.
    let is_still = borrow(fd)
        .and_then(|fd| rustix::fs::fstat(fd).ok())
        .is_some_and(|it| it.st_mode & libc::S_IFMT == 0);
    if !is_still && process::owns_state() {
        instance.forget(fd);
    }
    is_still
}

/// Returns what `FIONREAD` says.
pub(crate) fn readable_bytes(fd: RawFd, kernel: c_int) -> c_int {
    let all = guarded(|| {
        let instance = instance_at(fd)?;
        let kernel = usize::try_from(kernel).ok()?;
        c_int::try_from(deliver::readable_bytes(instance.state()?, kernel)).ok()
    });
    all.flatten().unwrap_or(kernel)
}

/// Does what read(2) does. The real call comes first and blocks, fails and is interrupted as ever; nothing
/// of ours is held meanwhile, and no frame up to here has anything to clean up when the thread is
/// cancelled.
///
/// # Safety
/// As read(2).
pub(crate) unsafe fn read(fd: RawFd, buffer: *mut c_void, len: usize) -> isize {
    loop {
        if Instance::has_state(fd) {
            guarded(|| before(fd));
        }
        // SAFETY: 3: the very same arguments.
        let read = unsafe { real::read(fd, buffer, len) };
        // The first watch on AgentFS may have been made while the thread slept.
        if !Instance::has_state(fd) {
            return read;
        }
        let Some(filled) = usize::try_from(read).ok().filter(|n| *n > 0) else {
            return read;
        };
        let outcome = guarded(|| {
            // SAFETY: 3 and 4: there is a buffer of `len` bytes, and the kernel has just written `filled`.
            unsafe { after(fd, buffer, len, filled) }
        });
        match outcome {
            Some(Outcome::Bytes(bytes)) => return isize::try_from(bytes).unwrap_or(read),
            Some(Outcome::TooSmall) => {
                guard::set_errno(libc::EINVAL);
                return -1;
            }
            Some(Outcome::Again) => {}
            None => return read,
        }
    }
}

/// Takes our events out of a read that has succeeded, and inserts those of the ring.
///
/// # Safety
/// * `buffer` has room for `len` bytes, of which the first `filled` are initialised.
unsafe fn after(fd: RawFd, buffer: *mut c_void, len: usize, filled: usize) -> Outcome {
    let (Some(instance), Some(borrowed)) = (Instance::of(fd), borrow(fd)) else {
        return Outcome::Bytes(filled);
    };
    let Some(state) = instance.state() else {
        return Outcome::Bytes(filled);
    };
    let bytes = buffer.cast::<MaybeUninit<u8>>();
    // SAFETY: 3 and 4: not null, writable for `len` bytes, no more than `isize::MAX`, used by nobody else
    // during this call; bytes have no alignment, and may be uninitialised in this type.
    let bytes = unsafe { std::slice::from_raw_parts_mut(bytes, len) };
    // SAFETY: by the promise of this function's caller.
    let mut buffer = unsafe { Buffer::new(bytes, filled) };
    // Saves a system call on the way of an event.
    if !deliver::begins_with_bell(state, &buffer) && !is_still(&instance, fd) {
        return Outcome::Bytes(filled);
    }
    deliver::deliver(borrowed, state, &mut buffer)
}

/// Makes the state that of a child of fork.
pub(crate) fn in_forked_child() {
    register::in_forked_child();
    orphans::in_forked_child();
    instance::in_forked_child();
}
