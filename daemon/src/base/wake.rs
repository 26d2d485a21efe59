//! Everything that wakes the event loop, and how other threads wake it.

use std::io;

use agentfs_core::id::SessionId;
use mio::{Registry, Token, Waker};
use parking_lot::Mutex;

use crate::base::refill_id::RefillId;
use crate::base::reply::LateReply;

/// Why the event loop wakes.
///
/// The first kinds come from the kernel, which says what can be read; the loop makes them of its
/// tokens. The others are [sent](WakeQueue::send) by other threads, each as rarely as its comment says,
/// so that no flood of events fills the queue.
#[derive(Debug)]
pub(crate) enum Wake {
    /// Connections wait to be accepted.
    Connections,
    /// A connection can be read or written, or the other side has closed it.
    Connection {
        session: SessionId,
        has_hung_up: bool,
    },
    /// A program has read its ring up to the place where its queue waits for room.
    Refill(RefillId),
    /// The socket or what lies beside it was removed, or may be made again.
    Removal,
    /// Programs wrote nonsense into their rings; the watch service knows which.
    DamagedRings,
    /// A program wrote nonsense into its request channel. Sent once a channel.
    DamagedChannel(SessionId),
    /// Broadcasts wait for a session. Sent for the first that waits: not again until the session has
    /// had its turn and taken them.
    Broadcasts(SessionId),
    /// A request that took long has its reply. Sent once a request, of which a session has one.
    LateReply(Box<LateReply>),
    /// A mount has ended, and what waited for that may be done. Sent once a mount.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "branches are mounted on Linux only")
    )]
    MountEnded,
    /// It is known now whether a branch is as it was made. Sent once for each state of a branch that is
    /// asked about.
    Known,
    /// The daemon is to end.
    Stop,
}

/// What other threads have for the event loop, in the order in which it came.
#[derive(Debug)]
pub(crate) struct WakeQueue {
    sent: Mutex<Vec<Wake>>,
    waker: Waker,
}

impl WakeQueue {
    /// Creates the queue of the loop that polls this registry, which hears of it by `token`.
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        Ok(Self {
            sent: Mutex::default(),
            waker: Waker::new(registry, token)?,
        })
    }

    /// Sends a wake, and makes the system call that wakes the loop if nothing was waiting for it yet.
    /// Takes no other lock, and allocates only while the queue grows to the longest it ever was.
    pub(crate) fn send(&self, wake: Wake) {
        let is_first = {
            let mut sent = self.sent.lock();
            sent.push(wake);
            sent.len() == 1
        };
        if is_first && let Err(error) = self.waker.wake() {
            tracing::error!(%error, "the event loop cannot be woken");
        }
    }

    /// Moves everything that was sent to `wakes`, which is empty.
    ///
    /// Whoever sends after this finds the queue empty and wakes the loop again, so nothing is missed
    /// between this call and the next wait.
    pub(crate) fn take(&self, wakes: &mut Vec<Wake>) {
        std::mem::swap(&mut *self.sent.lock(), wakes);
    }
}

#[cfg(test)]
mod tests {
    use super::{Wake, WakeQueue};
    use agentfs_core::id::SessionId;
    use mio::{Events, Poll, Token};
    use std::time::Duration;

    /// Returns how often the loop is woken within no time.
    fn wakings(poll: &mut Poll) -> usize {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        events.iter().count()
    }

    #[test]
    fn what_is_sent_wakes_once_until_it_is_taken_and_keeps_its_order() {
        let mut poll = Poll::new().unwrap();
        let queue = WakeQueue::new(poll.registry(), Token(7)).unwrap();
        let mut taken = Vec::new();
        assert_eq!(wakings(&mut poll), 0);
        queue.send(Wake::Broadcasts(SessionId(1)));
        assert_eq!(wakings(&mut poll), 1);
        queue.send(Wake::MountEnded);
        assert_eq!(wakings(&mut poll), 0, "it is awake already");
        queue.take(&mut taken);
        let is_in_order = matches!(
            taken[..],
            [Wake::Broadcasts(SessionId(1)), Wake::MountEnded]
        );
        assert!(is_in_order, "{taken:?}");
        taken.clear();
        queue.send(Wake::Stop);
        assert_eq!(wakings(&mut poll), 1);
        queue.take(&mut taken);
        assert!(matches!(taken[..], [Wake::Stop]), "{taken:?}");
    }
}
