//! Group commit: threads that wait for the same sync share it.

use crate::model::errno::Result;
use crate::sync::{Condvar, Mutex};

/// Rounds of work, one at a time. A caller is served by a round that begins after the call, because
/// the one that runs may have begun before what the caller wants to have in it.
#[derive(Debug)]
pub(super) struct Rounds {
    state: Mutex<State>,
    ended: Condvar,
    /// Notified when a caller begins to wait, because tests have to know how many callers do.
    waits: Condvar,
}

#[derive(Debug)]
struct State {
    begun: u64,
    ended: u64,
    waiting: usize,
    /// How the last round ended.
    outcome: Result<()>,
}

impl Rounds {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                begun: 0,
                ended: 0,
                waiting: 0,
                outcome: Ok(()),
            }),
            ended: Condvar::new(),
            waits: Condvar::new(),
        }
    }

    /// Waits for the next round, and carries it out if no other thread does.
    pub(super) fn join(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut state = self.state.lock();
        let mine = state.begun + 1;
        state.waiting += 1;
        self.waits.notify_one();
        while state.begun > state.ended && state.ended < mine {
            self.ended.wait(&mut state);
        }
        state.waiting -= 1;
        if state.ended >= mine {
            return state.outcome;
        }
        state.begun += 1;
        drop(state);
        let outcome = work();
        let mut state = self.state.lock();
        state.ended += 1;
        state.outcome = outcome;
        self.ended.notify_all();
        outcome
    }

    /// Waits until so many callers wait, and returns whether they came in time.
    #[cfg(test)]
    pub(super) fn has_waiters(&self, count: usize, patience: std::time::Duration) -> bool {
        let mut state = self.state.lock();
        let is_fewer = |state: &mut State| state.waiting < count;
        let waited = self.waits.wait_while_for(&mut state, is_fewer, patience);
        !waited.timed_out()
    }
}
