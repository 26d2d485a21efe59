//! The world as loom sees it: a doorbell is a flag under a mutex with a condition variable, which
//! is what a level-triggered descriptor is to the two processes that share it.

use std::sync::Arc as StdArc;

use agentfs_ring::{Capacity, Consumer, OwnerId, heap};
use core::num::NonZeroU64;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::{Tally, Woken};
use crate::bodies::Model;

#[derive(Debug, Default)]
struct BellState {
    rung: bool,
    ringers: usize,
}

#[derive(Debug)]
struct Bell {
    state: Mutex<BellState>,
    changed: Condvar,
}

impl Bell {
    fn new(ringers: usize) -> Arc<Self> {
        let state = Mutex::new(BellState {
            rung: false,
            ringers,
        });
        Arc::new(Self {
            state,
            changed: Condvar::new(),
        })
    }

    fn change(&self, change: impl FnOnce(&mut BellState)) {
        change(&mut self.state.lock().expect("no end panicked"));
        self.changed.notify_all();
    }

    fn wait(&self) -> Woken {
        let mut state = self.state.lock().expect("no end panicked");
        loop {
            if core::mem::take(&mut state.rung) {
                return Woken::Rung;
            }
            if state.ringers == 0 {
                return Woken::PeerGone;
            }
            state = self.changed.wait(state).expect("no end panicked");
        }
    }
}

/// What both ends share beside the ring.
#[derive(Debug)]
pub struct World;

/// One end's view. Dropping it is that end's exit.
#[derive(Debug)]
pub struct Side {
    mine: Arc<Bell>,
    peers: Arc<Bell>,
    file: Arc<AtomicU64>,
    dead: Arc<AtomicU64>,
    tally: StdArc<Tally>,
    items: u64,
    owner: OwnerId,
}

impl Side {
    /// Rings the other end's doorbell.
    pub fn ring(&self) {
        self.peers.change(|state| state.rung = true);
    }

    /// Sleeps until this end's doorbell is rung, and clears it.
    #[must_use]
    pub fn wait(&self) -> Woken {
        self.mine.wait()
    }

    /// Has nothing to do for the moment.
    pub fn idle(&self) {
        thread::yield_now();
    }

    /// Lets another consumer try: loom does so anyway.
    pub fn give_way(&self) {}

    /// Changes what stands for the filesystem, with no ordering of its own.
    pub fn change_file(&self, value: u64) {
        self.file.store(value, Ordering::Relaxed);
    }

    /// Looks at what stands for the filesystem, with no ordering of its own.
    #[must_use]
    pub fn look_at_file(&self) -> u64 {
        self.file.load(Ordering::Relaxed)
    }

    /// Notes that this consumer has died, as the kernel knows it of a process: whatever it did came before.
    pub fn die(&self) {
        self.dead.store(self.owner.get(), Ordering::Release);
    }

    /// Returns whether this consumer has died.
    #[must_use]
    pub fn is_dead(&self, owner: OwnerId) -> bool {
        self.dead.load(Ordering::Acquire) == owner.get()
    }

    /// Returns how often a consumer that shares its end tries to claim it. Few times, because loom cannot
    /// distinguish a spin that waits for another thread from one that never ends.
    #[must_use]
    pub fn tries(&self) -> u64 {
        self.items
    }

    /// Returns how many records this run is about.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Returns the name of this consumer.
    #[must_use]
    pub fn owner(&self) -> OwnerId {
        self.owner
    }

    /// Returns the counters of the run.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.peers.change(|state| state.ringers -= 1);
    }
}

/// Runs a model under loom.
///
/// # Panics
/// When an interleaving breaks it.
pub fn run_model(model: &'static Model) {
    let mut builder = loom::model::Builder::new();
    if builder.preemption_bound.is_none() {
        builder.preemption_bound = Some(model.preemption_bound);
    }
    builder.check(move || run_once(model));
}

fn run_once(model: &'static Model) {
    let (mut producer, consumer) = heap(Capacity::for_model(model.capacity));
    let consumer: Arc<Consumer> = Arc::new(consumer);
    let tally = StdArc::new(Tally::default());
    let file = Arc::new(AtomicU64::new(0));
    let dead = Arc::new(AtomicU64::new(0));
    let (data, refill) = (Bell::new(1), Bell::new(model.consumers));
    let side = |mine: &Arc<Bell>, peers: &Arc<Bell>, id: u64| Side {
        mine: mine.clone(),
        peers: peers.clone(),
        file: file.clone(),
        dead: dead.clone(),
        tally: tally.clone(),
        items: model.items,
        owner: OwnerId::new(NonZeroU64::new(id).expect("not zero")),
    };
    let mut ends = Vec::new();
    for id in 1..=model.consumers as u64 {
        let (consumer, side) = (consumer.clone(), side(&data, &refill, id));
        ends.push(thread::spawn(move || (model.consumer)(&consumer, &side)));
    }
    let side = side(&refill, &data, u64::MAX);
    (model.producer)(&mut producer, &side);
    drop(side);
    for end in ends {
        end.join().expect("a consumer");
    }
    (model.check)(&tally, model.items);
}
