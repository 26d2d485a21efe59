//! In tests: where a transaction stops, as if the process had been killed there or the host had
//! refused the call. All that a transaction knows after a kill is on the host, so a thread that
//! stops without cleaning up leaves the same behind as a process that is killed.

use std::cell::{Cell, RefCell};

use crate::model::errno::{Errno, Result};

/// What happens when the points are used up.
pub(crate) enum Fault {
    /// The process is killed.
    Kill,
    /// The host refuses this one call.
    Refuse(Errno),
    /// Another program does something.
    Call(Box<dyn FnOnce()>),
}

thread_local! {
    static FAULT: RefCell<Option<(usize, Fault)>> = const { RefCell::new(None) };
    static PASSED: Cell<usize> = const { Cell::new(0) };
    static IS_KILLED: Cell<bool> = const { Cell::new(false) };
}

/// Lets this thread pass so many points, and then be stopped by the fault.
pub(crate) fn after(points: usize, fault: Fault) {
    FAULT.replace(Some((points, fault)));
    IS_KILLED.set(false);
    PASSED.set(0);
}

/// Ends all faults; returns how many points the thread has passed, and whether it was stopped.
pub(crate) fn end() -> (usize, bool) {
    let was_stopped = FAULT.take().is_none();
    IS_KILLED.set(false);
    (PASSED.get(), was_stopped)
}

/// Passes a point: a call that changes the host follows.
pub(crate) fn point() -> Result<()> {
    if IS_KILLED.get() {
        return Err(Errno::EIO);
    }
    let passed = PASSED.get();
    PASSED.set(passed + 1);
    let is_due = |fault: &mut (usize, Fault)| fault.0 == passed;
    let due = FAULT.with_borrow_mut(|fault| fault.take_if(is_due));
    match due {
        None => Ok(()),
        Some((_, Fault::Kill)) => {
            IS_KILLED.set(true);
            Err(Errno::EIO)
        }
        Some((_, Fault::Refuse(errno))) => Err(errno),
        Some((_, Fault::Call(call))) => {
            call();
            Ok(())
        }
    }
}

/// Returns whether the process counts as killed, and does nothing more.
pub(crate) fn is_killed() -> bool {
    IS_KILLED.get()
}
