//! A point at which a test can hold a thread.

use std::cell::RefCell;
use std::ffi::c_int;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use agentfs_interpose_shim::kqueue::abi::Kevent;

use super::support::originals;

/// Stops a thread between the return of the real kevent() and what the hook does then.
#[derive(Debug)]
pub(crate) struct Gate {
    returned: SyncSender<()>,
    go_on: Receiver<()>,
}

thread_local! {
    static GATE: RefCell<Option<Gate>> = const { RefCell::new(None) };
}

/// Makes the next kevent() of this thread that returns events report its return, and wait until it
/// may go on.
pub(crate) fn stop_after_the_next_kevent(gate: Gate) {
    GATE.with_borrow_mut(|it| *it = Some(gate));
}

impl Gate {
    /// Creates a gate, with the ends of the other side: one reports the return, the other lets the
    /// thread go on.
    pub(crate) fn new() -> (Self, Receiver<()>, SyncSender<()>) {
        let (returned, is_returned) = sync_channel(1);
        let (let_go, go_on) = sync_channel(1);
        (Self { returned, go_on }, is_returned, let_go)
    }
}

#[expect(unsafe_code, reason = "stands for a C function")]
pub(crate) unsafe extern "C" fn gated(
    kq: c_int,
    changes: *const Kevent,
    nchanges: c_int,
    events: *mut Kevent,
    nevents: c_int,
    timeout: *const libc::timespec,
) -> c_int {
    // SAFETY: the caller's promise.
    let count = unsafe { (originals().kevent)(kq, changes, nchanges, events, nevents, timeout) };
    if count > 0
        && let Some(gate) = GATE.with_borrow_mut(Option::take)
    {
        gate.returned.send(()).unwrap();
        gate.go_on.recv_timeout(Duration::from_secs(30)).unwrap();
    }
    count
}
