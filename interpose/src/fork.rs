//! fork(2): a child gets a copy of its parent's state and owns that copy.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. Our own: [`in_forked_child`] is a function of this library, which is preloaded and never unloaded,
//!    and it does only what a child of fork may do: it stores into atomics, breaks open our own locks,
//!    closes our own descriptors, and gives memory back to no allocator.
#![expect(unsafe_code, reason = "a handler of fork")]

use crate::{connection, platform, process};

/// Makes this process the owner of the state, and has fork do the same in its children.
pub(crate) fn own_state() {
    if process::become_first_owner() {
        silence_panics();
        // SAFETY: 1: the handler stays callable, and is one that a child may run; pthread_atfork(3) asks
        // for nothing else.
        unsafe { libc::pthread_atfork(None, None, Some(in_forked_child)) };
    }
}

/// Makes a panic of this library print nothing. The hook is that of the library's own copy of std.
fn silence_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

extern "C" fn in_forked_child() {
    process::become_owner();
    connection::in_forked_child();
    platform::in_forked_child();
}
