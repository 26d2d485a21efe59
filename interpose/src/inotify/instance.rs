//! The state of one inotify instance of the program, found by descriptor.
//!
//! An instance has a place from its `inotify_init` on, so that its reads pass the hook before it watches
//! anything on AgentFS, and a thread that sleeps in such a read takes the bell out of what it gets. The
//! state comes with the first such watch.
//!
//! The place is never given back to the allocator but used again, so a thread may look at it while another
//! closes the descriptor; a count says whether it is alive.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. Our own: a [`Place`] is made by `Box::leak` in [`free_place`] and never freed. `PLACES`, every
//!    `next`, and every [`Owner::Inotify`] of the table are 0 or the address of one, stored with Release
//!    after it was filled; the address was exposed before it went into the table.
//! 2. Our own: a state is made by `Box::into_raw` in [`Instance::set_state`], by one who has a use, where
//!    there was none. `uses` never grows from 0 but in [`Instance::new`], an [`Instance`] is one of the
//!    uses, and only the thread that takes the last one takes the state out and frees it. So while a use
//!    is counted, the state lives.
//! 3. Our own: a [`Chained`] is made by `Box::into_raw` in [`State::set_queue`] and freed by the drop of
//!    its state alone. `set_queue` is called under the lock of [`register`](super::register), so no link
//!    of the chain is lost.
//! 4. fork(2): when its handler runs, the child has one thread, and its memory is a copy of its parent's.
#![expect(
    unsafe_code,
    reason = "follows an address of the table to memory that is never freed"
)]

use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::fd_table::{self, Owner};
use crate::inotify::orphans;
use crate::inotify::queue::Queue;
use crate::inotify::shared::Shared;
use crate::lock::Lock;

/// The place of a state.
#[derive(Debug)]
struct Place {
    /// How many descriptors lead here, and how many threads look.
    uses: AtomicU32,
    state: AtomicPtr<State>,
    next: AtomicPtr<Place>,
}

/// The state of an instance.
#[derive(Debug)]
pub(crate) struct State {
    /// `None` only while the state is dropped.
    shared: Option<Shared>,
    /// The queue in force, and behind it the earlier ones, which a thread may still look at.
    queue: AtomicPtr<Chained>,
}

#[derive(Debug)]
struct Chained {
    queue: Queue,
    older: *mut Chained,
}

/// Held while a free place is looked for.
static PLACING: Lock<()> = Lock::new(());

static PLACES: AtomicPtr<Place> = AtomicPtr::new(ptr::null_mut());

/// Returns every place. Acquire: pairs with the store that put the place there, after it was filled.
fn places() -> impl Iterator<Item = &'static Place> {
    let mut at = PLACES.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: 1: null, or a place, aligned and filled, to which there are only shared references.
        let place = unsafe { at.as_ref() }?;
        at = place.next.load(Ordering::Acquire);
        Some(place)
    })
}

/// Holds a state while a thread works with it.
#[derive(Debug)]
pub(crate) struct Instance(&'static Place);

impl Instance {
    /// Returns whether a descriptor may have a state, without counting as a use.
    pub(crate) fn has_state(fd: RawFd) -> bool {
        let Owner::Inotify(address) = fd_table::get(fd) else {
            return false;
        };
        // SAFETY: 1: the address of a place, not 0, aligned and filled, to which there are only shared
        // references. Places are never freed, so no use is needed for a look at one.
        let place = unsafe { &*ptr::with_exposed_provenance::<Place>(address) };
        // Relaxed: the state is reached by `of` and `state`.
        !place.state.load(Ordering::Relaxed).is_null()
    }

    /// Returns the place of a descriptor, if it is an instance that the shim knows.
    pub(crate) fn of(fd: RawFd) -> Option<Self> {
        let Owner::Inotify(address) = fd_table::get(fd) else {
            return None;
        };
        // SAFETY: 1: the address of a place, not 0, aligned and filled, to which there are only shared
        // references.
        let place = unsafe { &*ptr::with_exposed_provenance::<Place>(address) };
        let more = |uses: u32| (uses > 0).then_some(uses + 1);
        // Acquire: pairs with the Release in `new`; whoever counts as a user finds the state.
        place
            .uses
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, more)
            .ok()?;
        let instance = Self(place);
        // The descriptor may have been closed in between, and its place used again.
        (fd_table::get(fd) == Owner::Inotify(address)).then_some(instance)
    }

    /// Makes a place for a descriptor that has none.
    pub(crate) fn new(fd: RawFd) -> Option<Self> {
        let instance = PLACING.with(|()| {
            let place = free_place();
            // One use is the descriptor's, and one the result's.
            // Release: pairs with `of`.
            place.uses.store(2, Ordering::Release);
            Self(place)
        })?;
        if fd_table::set(fd, Owner::Inotify(instance.address())) {
            Some(instance)
        } else {
            instance.give_back();
            None
        }
    }

    /// Gives the instance a state, if it has none. Called under the lock of
    /// [`register`](super::register), so of two threads one comes first.
    pub(crate) fn set_state(&self, shared: Shared) {
        if self.state().is_some() {
            return;
        }
        let state = Box::new(State {
            shared: Some(shared),
            queue: AtomicPtr::new(ptr::null_mut()),
        });
        // Release: pairs with `state`, which finds a whole one.
        self.0.state.store(Box::into_raw(state), Ordering::Release);
    }

    fn address(&self) -> usize {
        ptr::from_ref(self.0).expose_provenance()
    }

    /// Returns the state, if there is a watch on AgentFS.
    pub(crate) fn state(&self) -> Option<&State> {
        // SAFETY: 2: `self` is a use, so the pointer is null or to a state that lives as long as `self`,
        // which the result borrows; there are only shared references to it until the last use is gone.
        unsafe { self.0.state.load(Ordering::Acquire).as_ref() }
    }

    /// Notes that another descriptor leads here.
    pub(crate) fn also_at(&self, fd: RawFd) {
        // Relaxed: this very use keeps the state.
        self.0.uses.fetch_add(1, Ordering::Relaxed);
        if !fd_table::set(fd, Owner::Inotify(self.address())) {
            self.give_back();
        }
    }

    /// Notes that a descriptor leads here no more.
    pub(crate) fn forget(&self, fd: RawFd) {
        if fd_table::take(fd) == Owner::Inotify(self.address()) {
            self.give_back();
        }
    }

    fn give_back(&self) {
        // AcqRel: the last one frees after all that the others did.
        if self.0.uses.fetch_sub(1, Ordering::AcqRel) == 1 {
            let state = self.0.state.swap(ptr::null_mut(), Ordering::AcqRel);
            if !state.is_null() {
                // SAFETY: 2: made by `Box::into_raw`; this was the last use and has taken the pointer out,
                // so nobody else refers to it or frees it.
                drop(unsafe { Box::from_raw(state) });
            }
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Returns a place that nobody uses. It is called under [`PLACING`].
fn free_place() -> &'static Place {
    // Acquire: pairs with `give_back`; the earlier state is gone.
    let is_free = |place: &&Place| {
        place.uses.load(Ordering::Acquire) == 0 && place.state.load(Ordering::Acquire).is_null()
    };
    if let Some(place) = places().find(is_free) {
        return place;
    }
    let place = Box::leak(Box::new(Place {
        uses: AtomicU32::new(0),
        state: AtomicPtr::new(ptr::null_mut()),
        next: AtomicPtr::new(PLACES.load(Ordering::Acquire)),
    }));
    // Release: pairs with `places`.
    PLACES.store(place, Ordering::Release);
    place
}

impl State {
    /// Returns what all processes with the instance share.
    pub(crate) fn shared(&self) -> &Shared {
        match &self.shared {
            Some(shared) => shared,
            None => unreachable!("it is taken out by the drop alone"),
        }
    }

    /// Returns whether there was a queue, in force or not.
    pub(crate) fn has_had_queue(&self) -> bool {
        !self.queue.load(Ordering::Relaxed).is_null()
    }

    /// Returns the queue in force, unless another process has taken the instance over.
    pub(crate) fn queue(&self) -> Option<&Queue> {
        // Acquire: pairs with `set_queue`, which has filled it.
        // SAFETY: 3: null, or a link of the chain, which lives as long as the state that the result borrows
        // and is not written any more.
        let chained = unsafe { self.queue.load(Ordering::Acquire).as_ref() }?;
        let queue = &chained.queue;
        (queue.generation == self.shared().generation()).then_some(queue)
    }

    /// Puts a queue in force, and closes the one before.
    pub(crate) fn set_queue(&self, queue: Queue) {
        let older = self.queue.load(Ordering::Acquire);
        // SAFETY: 3: null, or a link of the chain, which lives as long as the state.
        if let Some(replaced) = unsafe { older.as_ref() } {
            replaced.queue.name().close();
        }
        let chained = Box::into_raw(Box::new(Chained { queue, older }));
        self.queue.store(chained, Ordering::Release);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let is_last = self.shared().leave();
        let queue = self.queue().map(Queue::name);
        if let (Some(name), Some(shared)) = (queue, self.shared.take()) {
            if is_last {
                name.close();
            } else {
                orphans::adopt(name, shared);
            }
        }
        let mut at = *self.queue.get_mut();
        while !at.is_null() {
            // SAFETY: 3: made by `Box::into_raw`; `self` is borrowed alone, so nobody refers to a link of
            // its chain, and each link is taken once, on the way from the newest to the oldest.
            let chained = unsafe { Box::from_raw(at) };
            at = chained.older;
        }
    }
}

/// Joins every instance in a child of fork, which has all that its parent has. Uses that threads of the
/// parent counted stay counted, so such a state is kept a little too long, and never freed too early.
pub(crate) fn in_forked_child() {
    PLACING.break_open();
    for place in places() {
        // SAFETY: 2 and 4: null, or a whole state, because a use that a thread of the parent counted stays
        // counted here; no other thread is there to free it.
        if let Some(state) = unsafe { place.state.load(Ordering::Acquire).as_ref() } {
            state.shared().join();
        }
    }
}
