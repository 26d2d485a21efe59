//! What a call by a path is answered when the host replaces the object between the kernel's look at
//! its name and its use.
//!
//! The kernel resolves a path to a node, and then asks for that node. If the host has put another
//! object in its place by then, the answer is `ESTALE`: whatever is served of the old object could be
//! outdated for long, because the kernel may have remembered the name. The kernel then looks every
//! name on the path up again, in the same thread, and asks once more (`retry_estale` in
//! `include/linux/namei.h`). It does not do so a third time, and the host may replace the object
//! again between these two requests.
//!
//! So the object that a lookup of such a thread leads to is held until the thread's next lookup. It
//! had the name while the call was under way, which is what the caller can ask for: a file that was
//! opened a moment before it was replaced is the old one in a bare directory, too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentfs_core::id::NodeId;
use agentfs_core::{Caller, Errno, HandleId, Held, OpenFlags, Result, Shown};
use parking_lot::Mutex;

use crate::adapter::Adapter;

/// Threads that are remembered at a time. One that is pushed out has its call fail only if the host
/// replaces the object twice in that call.
const THREADS: usize = 256;
/// Lookups of a thread after which its call is over, if no open has shown that.
const LOOKUPS: u32 = 4096;

/// The threads whose calls the kernel tries again.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    all: Mutex<VecDeque<Retry>>,
    /// How many there are: almost always none.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Retry {
    thread: u32,
    lookups: u32,
    /// The object of the thread's last lookup.
    held: Option<Arc<Held>>,
}

impl Retries {
    /// Notes that a request of a thread is answered `ESTALE`.
    pub(crate) fn begin(&self, thread: u32) {
        self.change(|all| {
            if !all.iter().any(|it| it.thread == thread) {
                if all.len() == THREADS {
                    all.pop_front();
                }
                all.push_back(Retry {
                    thread,
                    lookups: 0,
                    held: None,
                });
            }
        });
    }

    /// Returns whether a thread's request was answered `ESTALE`, and its call goes on.
    pub(crate) fn is_under_way(&self, thread: u32) -> bool {
        self.count.load(Ordering::Relaxed) > 0
            && self.all.lock().iter().any(|it| it.thread == thread)
    }

    /// Keeps what a lookup of a thread has led to.
    pub(crate) fn keep(&self, thread: u32, held: Option<Arc<Held>>) {
        self.change(|all| {
            if let Some(at) = all.iter().position(|it| it.thread == thread) {
                let retry = &mut all[at];
                retry.held = held;
                retry.lookups += 1;
                if retry.lookups == LOOKUPS {
                    all.remove(at);
                }
            }
        });
    }

    /// Forgets a thread, which has opened what it asked for.
    pub(crate) fn end(&self, thread: u32) {
        if self.count.load(Ordering::Relaxed) > 0 {
            self.change(|all| all.retain(|it| it.thread != thread));
        }
    }

    fn change(&self, change: impl FnOnce(&mut VecDeque<Retry>)) {
        let mut all = self.all.lock();
        change(&mut all);
        self.count.store(all.len(), Ordering::Relaxed);
    }
}

impl Adapter {
    /// Looks a name up. The object that it leads to is held if the thread's call is tried again.
    pub(crate) fn look_up(&self, caller: &Caller, parent: NodeId, name: &[u8]) -> Result<Shown> {
        if !self.retries.is_under_way(caller.pid) {
            return self.tried(caller.pid, self.branch.show(caller, parent, name));
        }
        let (shown, held) = self.branch.show_and_hold(caller, parent, name)?;
        self.retries.keep(caller.pid, held);
        Ok(shown)
    }

    /// Opens a node. What the host no longer has is opened only for a thread that has looked its path
    /// up again: see [`Retries`].
    pub(crate) fn open_node(
        &self,
        caller: &Caller,
        node: NodeId,
        flags: OpenFlags,
    ) -> Result<HandleId> {
        let opened = match self.branch.open_node(caller, node, flags) {
            Err(Errno::ESTALE) if self.retries.is_under_way(caller.pid) => {
                self.branch.open_held(caller, node, flags)
            }
            opened => opened,
        };
        if opened.is_ok() {
            self.retries.end(caller.pid);
        }
        self.tried(caller.pid, opened)
    }

    /// Passes a result on, and notes that the kernel will try the thread's call again if that is
    /// `ESTALE`.
    pub(crate) fn tried<T>(&self, thread: u32, result: Result<T>) -> Result<T> {
        if matches!(result, Err(Errno::ESTALE)) {
            self.retries.begin(thread);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_remembered_from_its_failure_to_its_open() {
        let retries = Retries::default();
        assert!(!retries.is_under_way(1));
        retries.begin(1);
        retries.begin(2);
        retries.begin(1);
        retries.keep(1, None);
        assert!(retries.is_under_way(1));
        retries.end(1);
        assert!(!retries.is_under_way(1));
        assert!(retries.is_under_way(2));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let retries = Retries::default();
        for thread in 0..1000 {
            retries.begin(thread);
        }
        assert_eq!(retries.all.lock().len(), THREADS);
        assert!(retries.is_under_way(999));
        for _ in 0..LOOKUPS {
            retries.keep(999, None);
        }
        assert!(!retries.is_under_way(999));
    }
}
