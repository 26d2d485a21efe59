//! A kqueue for Linux, in user space and for tests only. The hooks of the AgentFS shim meet it as "the real
//! kevent" when they are tested on Linux.
//!
//! It follows macOS (XNU): it has the same structures and constants ([`abi`]), the same order of steps in
//! a call, and the same states of a knote.
//!
//! | filter | becomes active by |
//! |---|---|
//! | EVFILT_VNODE | [`testkq_post_vnode`]; for a directory also when an entry of it is made, moved or removed |
//! | EVFILT_READ, EVFILT_WRITE | pipes, sockets and queues |
//! | EVFILT_TIMER | time |
//! | EVFILT_SIGNAL | blocked signals, and [`post_signal`] |
//! | EVFILT_USER | NOTE_TRIGGER |
//!
//! It deliberately does not notice by itself what happens to a file, does not read regular files with
//! EVFILT_READ, does not know fork, and is not fast with very many descriptors that are ready at once.
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! use agentfs_testkq::{abi, close, kevent, kqueue};
//!
//! let kq = kqueue();
//! let change = abi::Kevent {
//!     ident: 1,
//!     filter: abi::EVFILT_USER,
//!     flags: abi::EV_ADD | abi::EV_CLEAR,
//!     fflags: abi::NOTE_TRIGGER,
//!     ..Default::default()
//! };
//! let mut event = abi::Kevent::default();
//! // One change, room for one event, no timeout.
//! let count = unsafe { kevent(kq, &change, 1, &mut event, 1, std::ptr::null()) };
//! assert_eq!(count, 1);
//! assert_eq!({ event.ident }, 1);
//! close(kq);
//! # }
//! ```

#![cfg(target_os = "linux")]

pub mod abi;
mod c_api;
mod call;
mod knote;
mod queue;
mod queue_table;
mod sys;

use std::os::fd::RawFd;

pub use c_api::{close, dup2, kevent, kevent_qos, kevent64, kqueue, testkq_post_vnode};

/// Counts `signo` on every EVFILT_SIGNAL knote, as if it had been sent to the process.
pub fn post_signal(signo: u64) {
    for queue in queue_table::all() {
        queue.post_signal(signo);
    }
}

/// Waits until `count` threads sleep in kevent calls on `kq`. Returns at once when `kq` is no queue.
///
/// # Panics
///
/// When they do not within 30 seconds.
pub fn wait_until_asleep(kq: RawFd, count: usize) {
    if let Some(queue) = queue_table::find(kq) {
        queue.wait_until_asleep(count);
    }
}
