//! One kqueue of the program that has AgentFS watches: the mirror of its knotes, its channel, and the
//! hidden knotes that wake it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use agentfs_proto::record::{EventRef, HEAD_LEN, Kind};
use agentfs_ring::{ArmOutcome, Bell, Corrupt, OwnerId};

use super::abi::{self, Event, Flavour};
use super::daemon::{Channel, Daemon, Node, QueueId, WatchId, WatchOp};
use super::deliver::{self, Eventlist, HiddenEvents, HiddenIdents};
use super::hidden_knotes::{doorbell_knote, new_ident, user_knote};
use super::kernel::{self, Errno, Originals};
use super::knote::{Confirm, Knotes, Moment};
use crate::fd_table::{self, Owner};
use crate::lock::{Held, Lock};

/// The upper half of the ident of the reserved EVFILT_USER knote; the lower half is random.
pub(super) const RESERVED_IDENT: u64 = 0xAFFE_0000_0000;

/// How often a call looks at the ring again when records keep coming. After that it leaves the queue
/// readable and lets the program run.
const ROUNDS: usize = 4;

/// A queue with AgentFS watches.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The daemon's name for the queue; a new daemon gives another one.
    pub(super) id: AtomicU64,
    pub(super) flavour: Flavour,
    /// The [`HiddenIdents`], which are read without a lock.
    pub(super) user: AtomicU64,
    pub(super) doorbell: AtomicU64,
    pub(super) restart: AtomicU64,
    pub(super) state: Lock<State>,
    /// Held while changes go to the daemon, so that it gets them in order.
    pub(super) sender: Lock<()>,
}

/// Stands for the ident of a hidden knote that does not exist.
pub(super) const NO_IDENT: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct State {
    pub(super) kq: RawFd,
    pub(super) me: OwnerId,
    pub(super) knotes: Knotes,
    pub(super) channel: Option<Channel>,
    /// The directory where a new daemon makes its socket, while there is none.
    pub(super) restart_directory: Option<OwnedFd>,
    /// The reserved EVFILT_USER knote is triggered.
    pub(super) user_is_up: bool,
    /// Records were left in the ring.
    pub(super) more: bool,
    /// The changes that the daemon has not got yet, in order.
    pub(super) outbox: Vec<WatchOp>,
}

/// The lock was held by the code that a signal handler interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Interrupted;

impl Queue {
    /// Puts the hidden knotes into the program's queue `kq`.
    ///
    /// # Errors
    ///
    /// The kernel's error, when it refuses a hidden knote.
    pub(crate) fn new(
        originals: &Originals,
        kq: RawFd,
        flavour: Flavour,
        id: QueueId,
        channel: Channel,
    ) -> Result<Self, Errno> {
        let state = State {
            kq,
            me: OwnerId::this_process(),
            knotes: Knotes::default(),
            channel: Some(channel),
            restart_directory: None,
            user_is_up: false,
            more: false,
            outbox: Vec::new(),
        };
        let queue = Self {
            id: AtomicU64::new(pack(id)),
            flavour,
            user: AtomicU64::new(new_ident()),
            doorbell: AtomicU64::new(NO_IDENT),
            restart: AtomicU64::new(NO_IDENT),
            state: Lock::new(state),
            sender: Lock::new(()),
        };
        kernel::change_as(originals, flavour, kq, &user_knote(queue.hidden().user))?;
        if let Some(mut state) = queue.state.lock() {
            queue.connect(&mut state, originals)?;
        }
        Ok(queue)
    }

    pub(crate) fn id(&self) -> QueueId {
        unpack(self.id.load(Ordering::Relaxed))
    }

    /// Returns the idents. Acquire: pairs with the Release of every store, which comes after the kernel's own
    /// change: an ident that is seen here has its knote, or had it.
    pub(crate) fn hidden(&self) -> HiddenIdents {
        let known = |ident: &AtomicU64| {
            Some(ident.load(Ordering::Acquire)).filter(|ident| *ident != NO_IDENT)
        };
        HiddenIdents {
            user: self.user.load(Ordering::Acquire),
            doorbell: known(&self.doorbell),
            restart: known(&self.restart),
        }
    }

    /// Returns the descriptors that the hidden knotes hang on.
    pub(crate) fn hidden_descriptors(&self) -> impl Iterator<Item = RawFd> {
        let HiddenIdents {
            doorbell, restart, ..
        } = self.hidden();
        let idents = [doorbell, restart].into_iter().flatten();
        idents.filter_map(|ident| RawFd::try_from(ident).ok())
    }

    /// Watches the doorbell of the channel and takes what is in the ring already.
    pub(super) fn connect(&self, state: &mut State, originals: &Originals) -> Result<(), Errno> {
        let Some(channel) = &state.channel else {
            return Ok(());
        };
        let fd = channel.doorbell.as_fd().as_raw_fd();
        let ident = u64::try_from(fd).map_err(|_| Errno(libc::EBADF))?;
        kernel::change_as(originals, self.flavour, state.kq, &doorbell_knote(ident))?;
        fd_table::set(fd, Owner::Hidden);
        self.doorbell.store(ident, Ordering::Release);
        // A ring that no reader has armed does not ring.
        self.take_records(state, false);
        self.show_leftovers(state, originals);
        Ok(())
    }

    /// Applies one change of the program through `real` and mirrors it if the kernel accepted it.
    /// Kernel and mirror change together: no delivery comes between.
    pub(crate) fn apply<T>(
        &self,
        (originals, daemon): (&Originals, &impl Daemon),
        change: &Event,
        node: Option<Node>,
        real: impl FnOnce() -> (T, Result<(), Errno>),
    ) -> Result<T, Interrupted> {
        let mut state = self.state.lock().ok_or(Interrupted)?;
        let collides = change.filter == abi::EVFILT_USER && change.ident == self.hidden().user;
        if collides {
            self.move_user_knote(&mut state, originals);
        }
        let (answer, result) = real();
        // EINPROGRESS: the kernel deletes the knote as soon as it is enabled, and reports that.
        let accepted = matches!(result, Ok(()) | Err(Errno(libc::EINPROGRESS)));
        if accepted && change.filter == abi::EVFILT_VNODE {
            let ops = state.knotes.apply(change, node);
            state.outbox.extend(ops.into_iter().flatten());
            self.show_leftovers(&mut state, originals);
        }
        drop(state);
        if collides {
            daemon.reserved_ident(self.id(), self.hidden().user);
        }
        Ok(answer)
    }

    /// Turns the `count` events of a call to the kernel made at `since` into the program's: hidden ones go
    /// out, posted ones come in.
    pub(crate) fn merge(
        &self,
        originals: &Originals,
        daemon: &impl Daemon,
        list: &mut impl Eventlist,
        (count, since): (usize, Moment),
    ) -> Result<usize, Interrupted> {
        let (count, found) = deliver::strip(list, count, self.hidden());
        let mut state = self.state.lock().ok_or(Interrupted)?;
        let lost = self.take_posted(&mut state, originals, found);
        let State {
            kq, knotes, outbox, ..
        } = &mut *state;
        let confirm =
            |registered: &Event, wanted| confirm(originals, self.flavour, *kq, registered, wanted);
        let count = deliver::merge(list, (count, since), knotes, confirm, |op| outbox.push(op));
        self.show_leftovers(&mut state, originals);
        let has_ops = !state.outbox.is_empty();
        drop(state);
        if has_ops {
            self.send_outbox(daemon);
        }
        if lost {
            daemon.lost(self.id());
            self.await_daemon(originals, daemon);
        }
        if lost || found.restart {
            self.reconnect(originals, daemon);
        }
        Ok(count)
    }

    /// Takes what the daemon posted. Returns true when the channel is of no use any more.
    fn take_posted(&self, state: &mut State, originals: &Originals, found: HiddenEvents) -> bool {
        let works = self.take_records(state, found.doorbell);
        if works && !found.closed {
            return false;
        }
        self.disconnect(state, originals);
        true
    }

    /// Moves all records of the ring into the mirror and arms the doorbell. Returns false when the channel is
    /// broken.
    fn take_records(&self, state: &mut State, rung: bool) -> bool {
        let State {
            channel: Some(channel),
            knotes,
            more,
            me,
            ..
        } = state
        else {
            return true;
        };
        // The doorbell is cleared before popping, never after: a ring in between would be lost.
        let cleared = !rung || channel.doorbell.clear().is_ok();
        *more = false;
        let Some(mut claim) = channel.ring.claim(*me, |_| true) else {
            return cleared;
        };
        let mut take = || -> Result<bool, Corrupt> {
            // The records of a kqueue have no paths.
            let mut copy = [0; HEAD_LEN];
            for _ in 0..ROUNDS {
                while let Some(record) = claim.next()? {
                    if let Some(bytes) = record.copy_to(&mut copy) {
                        apply_record(knotes, bytes);
                    }
                }
                if claim.release() == Bell::Ring
                    && let Some(refill) = &channel.refill
                {
                    // A producer that is gone needs no space.
                    let _gone = refill.ring();
                }
                if claim.arm()? == ArmOutcome::MaySleep {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        match take() {
            Ok(left) => {
                *more = left;
                cleared
            }
            Err(_corrupt) => false,
        }
    }

    /// Keeps the queue readable exactly while posted events wait.
    pub(super) fn show_leftovers(&self, state: &mut State, originals: &Originals) {
        let wanted = state.knotes.is_ready() || state.more;
        if wanted == state.user_is_up {
            return;
        }
        let user = user_knote(self.hidden().user);
        let change = |event: &Event| kernel::change_as(originals, self.flavour, state.kq, event);
        let result = if wanted {
            change(&Event {
                flags: 0,
                fflags: abi::NOTE_TRIGGER,
                ..user
            })
        } else {
            // Without EV_CLEAR the knote stays triggered until it is deleted.
            let delete = Event {
                flags: abi::EV_DELETE,
                ..user
            };
            change(&delete).and_then(|()| change(&user))
        };
        if result.is_ok() {
            state.user_is_up = wanted;
        }
    }

    /// Notes that the program closes the descriptor `fd`, which may have knotes here.
    pub(crate) fn descriptor_closes(&self, daemon: &impl Daemon, fd: RawFd) {
        let Ok(ident) = u64::try_from(fd) else {
            return;
        };
        let Some(mut state) = self.state.lock() else {
            return;
        };
        if !state.knotes.has_ident(ident) {
            return;
        }
        while let Some(op) = state.knotes.close(ident) {
            state.outbox.push(op);
        }
        drop(state);
        self.send_outbox(daemon);
    }

    /// Notes another number of the queue: the program closed the one it was known by.
    pub(crate) fn renumber(&self, kq: RawFd) {
        if let Some(mut state) = self.state.lock() {
            state.kq = kq;
        }
    }

    /// Sends the outbox to the daemon. When the method returns, every change that was in the outbox when it was
    /// called is in force.
    pub(crate) fn send_outbox(&self, daemon: &impl Daemon) {
        let Some(_sender) = self.sender.lock() else {
            return;
        };
        let Some(ops) = self.lock_outbox() else {
            return;
        };
        if !ops.is_empty() {
            daemon.apply(self.id(), &ops);
        }
    }

    fn lock_outbox(&self) -> Option<Vec<WatchOp>> {
        let mut state: Held<'_, State> = self.state.lock()?;
        Some(std::mem::take(&mut state.outbox))
    }
}

/// Applies one record of the ring.
fn apply_record(knotes: &mut Knotes, bytes: &[u8]) {
    // A record of a newer writer that cannot be read is as good as none.
    let Ok(record) = EventRef::parse(bytes) else {
        return;
    };
    let head = record.head();
    match head.kind {
        Kind::OVERFLOW => knotes.post_all(abi::NOTE_WRITE),
        Kind::IGNORED => {}
        _ => knotes.post(WatchId(head.watch), head.mask),
    }
}

/// Makes the change that [`Confirm`] asks for. A change replaces interest and udata, so both are repeated.
fn confirm(
    originals: &Originals,
    flavour: Flavour,
    kq: RawFd,
    registered: &Event,
    wanted: Confirm,
) -> Result<(), Errno> {
    let identity = match registered.has(abi::EV_UDATA_SPECIFIC) {
        true => registered.flags & abi::EV_DISPATCH2,
        false => 0,
    };
    let change = |flags: u16| {
        let change = Event {
            flags: flags | identity,
            ..*registered
        };
        kernel::change_as(originals, flavour, kq, &change)
    };
    match wanted {
        Confirm::Exists => change(0),
        Confirm::Disable => change(abi::EV_DISABLE),
        Confirm::Delete => change(abi::EV_DELETE),
        Confirm::Retire => match change(abi::EV_DISABLE).and_then(|()| change(abi::EV_DELETE)) {
            Err(Errno(libc::EINPROGRESS)) => Ok(()),
            other => other,
        },
    }
}

/// Packs a queue's name into one word.
pub(super) fn pack(id: QueueId) -> u64 {
    u64::from(id.session) << 32 | u64::from(id.queue)
}

fn unpack(word: u64) -> QueueId {
    let half = |word: u64| u32::try_from(word & 0xFFFF_FFFF).unwrap_or(0);
    QueueId {
        session: half(word >> 32),
        queue: half(word),
    }
}
