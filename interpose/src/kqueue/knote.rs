//! A mirror of the EVFILT_VNODE knotes that hang on AgentFS files: what the kernel has registered, and
//! the bits that the daemon posted and the program has not fetched.
//!
//! The mirror changes only by changes that the kernel accepted, so both agree. The rules are those of a
//! kernel knote (`xnu: knote_process`, `filt_vntouch`). The kernel keeps its own pending bits, the mirror
//! keeps the posted ones, and a delivery joins them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHashMap;

use super::abi::{self, Event};
use super::daemon::{Node, WatchId, WatchOp};

/// The place of a knote in the mirror.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Index(u32);

#[derive(Debug)]
pub(crate) struct Knote {
    /// What the program registered: `flags` is the word latched at creation, `fflags` the interest.
    pub(crate) registered: Event,
    node: Node,
    watch: WatchId,
    /// Posted bits (the kernel's own are in the kernel).
    pending: u32,
    disabled: bool,
    /// The knote is in `ready`.
    queued: bool,
    /// The delivery that the knote last took part in.
    delivered_in: u64,
    /// The [`Moment`] at which EV_DISPATCH last disabled the knote.
    dispatched: u64,
    /// The next knote of the same ident (EV_UDATA_SPECIFIC).
    next: Option<Index>,
}

impl Knote {
    /// Returns the operation that registers the knote with the daemon.
    fn as_op(&self) -> WatchOp {
        WatchOp::Set {
            watch: self.watch,
            node: self.node,
            ident: self.registered.ident,
            fflags: self.registered.fflags,
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    knote: Option<Knote>,
}

#[derive(Debug, Default)]
pub(crate) struct Knotes {
    slots: Vec<Slot>,
    free: Vec<Index>,
    by_ident: FxHashMap<u64, Index>,
    /// Enabled knotes with posted bits, oldest activation first.
    ready: VecDeque<Index>,
    delivery: u64,
}

/// A moment among the deliveries of EV_DISPATCH knotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Moment(u64);

/// How many such deliveries there have been.
static DISPATCHES: AtomicU64 = AtomicU64::new(0);

impl Moment {
    /// Returns the present moment. Acquire: pairs with the count in [`Knotes::settle`].
    pub(crate) fn now() -> Self {
        Self(DISPATCHES.load(Ordering::Acquire))
    }
}

/// What becomes of an event that the kernel returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// The program gets the event, with these posted bits in it; the operation goes to the daemon.
    Event(u32, Option<WatchOp>),
    /// Another thread delivered this EV_DISPATCH knote since the call was made, from what the daemon
    /// had posted. The kernel's bits wait until the knote is enabled, as if they had come a little later.
    Late,
}

/// What has to happen in the kernel before posted bits may be delivered without an event of the kernel's.
/// Each fails with ENOENT when the kernel has no such knote any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Confirm {
    /// The knote exists.
    Exists,
    /// For EV_DISPATCH: it is disabled.
    Disable,
    /// For EV_ONESHOT: it is deleted.
    Delete,
    /// For EV_ONESHOT with EV_DISPATCH2: it is disabled, and deleted when it is enabled.
    Retire,
}

impl Knotes {
    /// Returns the knote that a change or an event of the kernel concerns.
    pub(crate) fn find(&self, event: &Event) -> Option<Index> {
        let specific = event.has(abi::EV_UDATA_SPECIFIC);
        let mut at = self.by_ident.get(&event.ident).copied();
        while let Some(index) = at {
            let knote = self.get(index)?;
            if knote.registered.has(abi::EV_UDATA_SPECIFIC) == specific
                && (!specific || knote.registered.udata == event.udata)
            {
                return Some(index);
            }
            at = knote.next;
        }
        None
    }

    pub(crate) fn get(&self, index: Index) -> Option<&Knote> {
        self.slots.get(index.0 as usize)?.knote.as_ref()
    }

    fn get_mut(&mut self, index: Index) -> Option<&mut Knote> {
        self.slots.get_mut(index.0 as usize)?.knote.as_mut()
    }

    /// Mirrors a change that the kernel accepted. `node` is the AgentFS file behind the ident, if it is
    /// one and the change carries EV_ADD. Returns the operations for the daemon: at most two.
    pub(crate) fn apply(&mut self, change: &Event, node: Option<Node>) -> [Option<WatchOp>; 2] {
        let change = change.simplified();
        let found = self.find(&change);
        if change.has(abi::EV_DELETE) {
            return [found.and_then(|index| self.remove(index)), None];
        }
        match (found, node) {
            (None, None) => [None, None],
            (None, Some(node)) => [self.insert(&change, node), None],
            (Some(index), node) => {
                let same = self.get(index).map(|knote| knote.node);
                if change.has(abi::EV_ADD) && node != same {
                    // The number was closed where no hook saw it: this is another file.
                    let removed = self.remove(index);
                    return [removed, node.and_then(|node| self.insert(&change, node))];
                }
                [self.touch(index, &change), None]
            }
        }
    }

    fn insert(&mut self, change: &Event, node: Node) -> Option<WatchOp> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = Index(u32::try_from(self.slots.len()).ok()?);
                self.slots.push(Slot::default());
                index
            }
        };
        let slot = self.slots.get_mut(index.0 as usize)?;
        let watch = WatchId(u64::from(slot.generation) << 32 | u64::from(index.0));
        let mut registered = *change;
        registered.flags &= !abi::EV_VANISHED;
        slot.knote = Some(Knote {
            registered,
            node,
            watch,
            pending: 0,
            disabled: change.has(abi::EV_DISABLE),
            queued: false,
            delivered_in: 0,
            dispatched: 0,
            next: self.by_ident.insert(change.ident, index),
        });
        self.get(index).map(Knote::as_op)
    }

    fn touch(&mut self, index: Index, change: &Event) -> Option<WatchOp> {
        let knote = self.get_mut(index)?;
        let interest = std::mem::replace(&mut knote.registered.fflags, change.fflags);
        if !knote.registered.has(abi::EV_UDATA_SPECIFIC) {
            knote.registered.udata = change.udata;
        }
        if change.has(abi::EV_DISABLE) {
            knote.disabled = true;
        } else if change.has(abi::EV_ENABLE) {
            knote.disabled = false;
        }
        let update = knote.as_op();
        self.activate(index);
        (interest != change.fflags).then_some(update)
    }

    fn remove(&mut self, index: Index) -> Option<WatchOp> {
        let slot = self.slots.get_mut(index.0 as usize)?;
        let knote = slot.knote.take()?;
        let ident = knote.registered.ident;
        self.unlink(ident, index, knote.next);
        if knote.queued {
            self.ready.retain(|queued| *queued != index);
        }
        let slot = self.slots.get_mut(index.0 as usize)?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(WatchOp::Remove { watch: knote.watch })
    }

    /// Takes `index` out of the chain of its ident.
    fn unlink(&mut self, ident: u64, index: Index, next: Option<Index>) {
        let Some(&first) = self.by_ident.get(&ident) else {
            return;
        };
        if first == index {
            match next {
                Some(next) => self.by_ident.insert(ident, next),
                None => self.by_ident.remove(&ident),
            };
            return;
        }
        let mut at = Some(first);
        while let Some(before) = at {
            let Some(knote) = self.get_mut(before) else {
                return;
            };
            if knote.next == Some(index) {
                knote.next = next;
                return;
            }
            at = knote.next;
        }
    }

    /// Removes one knote of the descriptor `ident`, which was closed; it is called until there is none.
    pub(crate) fn close(&mut self, ident: u64) -> Option<WatchOp> {
        let index = self.by_ident.get(&ident).copied()?;
        self.remove(index)
    }

    /// Returns whether any knote hangs on the descriptor `ident`.
    pub(crate) fn has_ident(&self, ident: u64) -> bool {
        self.by_ident.contains_key(&ident)
    }

    /// Posts a record of the daemon. The daemon has applied the filter rule, with the interest that was in
    /// force when the change happened; bits stay pending even if the interest changes.
    pub(crate) fn post(&mut self, watch: WatchId, hint: u32) {
        let Ok(index) = u32::try_from(watch.0 & 0xFFFF_FFFF) else {
            return;
        };
        let index = Index(index);
        if let Some(knote) = self.get_mut(index)
            && knote.watch == watch
        {
            knote.pending |= hint;
            self.activate(index);
        }
    }

    /// Posts bits to every knote, because something may have been missed.
    pub(crate) fn post_all(&mut self, hint: u32) {
        for index in 0..u32::try_from(self.slots.len()).unwrap_or(0) {
            if let Some(knote) = self.get_mut(Index(index)) {
                knote.pending |= hint;
                self.activate(Index(index));
            }
        }
    }

    /// Returns the operations that register all watches with a new daemon, but for those of which `is_still`
    /// says that the descriptor is not that file any more.
    pub(crate) fn all(&self, is_still: impl Fn(u64, Node) -> bool) -> Vec<WatchOp> {
        let knotes = self.slots.iter().filter_map(|slot| slot.knote.as_ref());
        knotes
            .filter(|it| is_still(it.registered.ident, it.node))
            .map(Knote::as_op)
            .collect()
    }

    /// Keeps "is in `ready`" and "has posted bits and is enabled" the same.
    fn activate(&mut self, index: Index) {
        let Some(knote) = self.get_mut(index) else {
            return;
        };
        let wanted = knote.pending != 0 && !knote.disabled;
        if wanted == knote.queued {
            return;
        }
        knote.queued = wanted;
        if wanted {
            self.ready.push_back(index);
        } else {
            self.ready.retain(|queued| *queued != index);
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Begins the delivery of one call: each knote takes part once.
    pub(crate) fn begin_delivery(&mut self) {
        self.delivery += 1;
    }

    /// Takes note of an event that the kernel delivered in a call made at `since`; the kernel has changed its
    /// knote accordingly.
    pub(crate) fn delivered_by_kernel(&mut self, event: &Event, since: Moment) -> Arrival {
        // The flags of an event are the latched word, so the identity is in it.
        let Some(index) = self.find(event) else {
            return Arrival::Event(0, None);
        };
        // EV_VANISHED and the late deletion of EV_DISPATCH2 are events of the kernel's own making.
        let fate = abi::EV_DELETE | abi::EV_VANISHED;
        if event.flags & fate != 0 && event.flags & abi::EV_ADD == 0 {
            return Arrival::Event(0, self.remove(index));
        }
        // NOTE_REVOKE sets EV_ONESHOT where it was not.
        let ended = event.has(abi::EV_ONESHOT);
        if !ended
            && let Some(knote) = self.get_mut(index)
            && knote.dispatched > since.0
        {
            knote.pending |= event.fflags;
            self.activate(index);
            return Arrival::Late;
        }
        let bits = self.get(index).map_or(0, |knote| knote.pending);
        Arrival::Event(bits, self.settle(index, ended))
    }

    /// Returns the oldest ready knote that has not taken part in this delivery. A knote that took part and
    /// stays ready is behind all others. The caller hands the result to [`deliver`](Self::deliver),
    /// [`forget`](Self::forget) or [`set_aside`](Self::set_aside).
    pub(crate) fn next_ready(&self) -> Option<(Index, Confirm)> {
        let index = *self.ready.front()?;
        let knote = self.get(index)?;
        if knote.delivered_in == self.delivery {
            return None;
        }
        let flags = knote.registered.flags;
        let confirm = if flags & abi::EV_ONESHOT != 0 {
            if flags & abi::EV_DISPATCH2 == abi::EV_DISPATCH2 {
                Confirm::Retire
            } else {
                Confirm::Delete
            }
        } else if flags & abi::EV_DISPATCH != 0 {
            Confirm::Disable
        } else {
            Confirm::Exists
        };
        Some((index, confirm))
    }

    /// Returns the event of a ready knote, after the kernel did what [`Confirm`] asks.
    pub(crate) fn deliver(&mut self, index: Index) -> Option<(Event, Option<WatchOp>)> {
        let knote = self.get(index)?;
        let event = Event {
            fflags: knote.pending,
            data: 0,
            ..knote.registered
        };
        let ended = event.has(abi::EV_ONESHOT);
        Some((event, self.settle(index, ended)))
    }

    /// Forgets a knote that the kernel has no more.
    pub(crate) fn forget(&mut self, index: Index) -> Option<WatchOp> {
        self.remove(index)
    }

    /// Takes a knote with its bits out of `ready`, until something new is posted or the kernel delivers it.
    pub(crate) fn set_aside(&mut self, index: Index) {
        if let Some(knote) = self.get_mut(index) {
            knote.queued = false;
        }
        if self.ready.front() == Some(&index) {
            self.ready.pop_front();
        } else {
            self.ready.retain(|queued| *queued != index);
        }
    }

    /// Does what a delivery leaves to do (`xnu: knote_process`).
    fn settle(&mut self, index: Index, ended: bool) -> Option<WatchOp> {
        if ended {
            return self.remove(index);
        }
        let delivery = self.delivery;
        let knote = self.get_mut(index)?;
        knote.delivered_in = delivery;
        let flags = knote.registered.flags;
        if flags & abi::EV_CLEAR != 0 {
            knote.pending = 0;
        }
        if flags & abi::EV_DISPATCH != 0 {
            knote.disabled = true;
            // AcqRel: pairs with the Acquire of [`Moment::now`], and counts in one order with other queues.
            knote.dispatched = DISPATCHES.fetch_add(1, Ordering::AcqRel) + 1;
        }
        let stays = knote.pending != 0 && !knote.disabled;
        if std::mem::replace(&mut knote.queued, stays) {
            if self.ready.front() == Some(&index) {
                self.ready.pop_front();
            } else {
                self.ready.retain(|queued| *queued != index);
            }
        }
        if stays {
            self.ready.push_back(index);
        }
        None
    }
}
