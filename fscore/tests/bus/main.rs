//! A model of the event bus: the crate's own `event_bus.rs`, compiled over shuttle's locks and
//! atomics, so that shuttle's scheduler decides which thread runs at every step. Each test runs
//! many schedules; a failure prints the one that failed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod sync;

/// The modules of the crate that `event_bus.rs` imports.
mod model {
    pub(crate) use agentfs_core::{event, id};
}

#[expect(
    dead_code,
    unreachable_pub,
    reason = "a module of the library, used in part"
)]
#[path = "../../src/branch/event_bus.rs"]
mod bus;

use std::sync::Arc;

use agentfs_core::event::{Change, Envelope, EventKind, EventSink, Origin};
use agentfs_core::id::{BranchId, SnapshotId};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread;

use bus::{Delivery, EventBus, EventContext, Outbox};

/// Runs random schedules, and schedules with few preemptions at unlikely places.
fn model(run: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(run.clone(), 3_000);
    shuttle::check_pct(run, 2_000, 3);
}

/// A branch as far as the bus knows it: the lock under which changes are made, and the outbox.
struct Branch {
    lock: Mutex<()>,
    outbox: Outbox,
    bus: Arc<EventBus>,
    /// How many changes of others a thread delivers before it hands over.
    more: u64,
    successors: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Branch {
    fn new(bus: &Arc<EventBus>) -> Arc<Self> {
        Self::handing_over(bus, u64::MAX)
    }

    fn handing_over(bus: &Arc<EventBus>, more: u64) -> Arc<Self> {
        Arc::new(Self {
            lock: Mutex::new(()),
            outbox: Outbox::new(BranchId(1)),
            bus: bus.clone(),
            more,
            successors: Mutex::default(),
        })
    }

    /// Waits for the threads that were handed the outbox; returns how many there were.
    fn join_successors(&self) -> usize {
        let successors = std::mem::take(&mut *self.successors.lock().unwrap());
        let count = successors.len();
        for successor in successors {
            successor.join().unwrap();
        }
        count
    }

    /// Carries out one operation: commits it under the lock and delivers it afterwards. `number`
    /// distinguishes it from other operations.
    fn change(self: &Arc<Self>, number: u64) {
        {
            let _locked = self.lock.lock().unwrap();
            let context = EventContext {
                time_ns: 0,
                pid: 0,
                origin: Origin::Local,
            };
            let change = Change::SnapshotCreated {
                id: SnapshotId(number),
                name: "".into(),
            };
            self.outbox.push(context, change);
        }
        if self.outbox.deliver(&self.bus, self.more) == Delivery::HandOver {
            let branch = self.clone();
            let successor = thread::spawn(move || branch.outbox.take_over(&branch.bus));
            self.successors.lock().unwrap().push(successor);
        }
    }
}

type Reaction = Box<dyn Fn(u64) + Send + Sync>;

/// A sink that remembers what it heard, and complains when a call comes at a wrong moment.
#[derive(Default)]
struct Ear {
    heard: Mutex<Vec<(u64, u64)>>,
    ends: Mutex<usize>,
    /// Set when the sink must hear nothing any more.
    closed: AtomicBool,
    inside: AtomicBool,
    /// Complaints are collected, because a panic would only end the subscription.
    complaints: Mutex<Vec<&'static str>>,
    /// Runs at each change, inside the call.
    reaction: Option<Reaction>,
}

impl Ear {
    fn heard(&self) -> Vec<(u64, u64)> {
        self.heard.lock().unwrap().clone()
    }

    fn demand(&self, fine: bool, otherwise: &'static str) {
        if !fine {
            self.complaints.lock().unwrap().push(otherwise);
        }
    }

    fn assert_no_complaint(&self) {
        assert_eq!(*self.complaints.lock().unwrap(), [""; 0]);
    }

    /// Asserts that everything up to `last` was heard, once and in order.
    fn assert_heard_all(&self, last: u64) {
        self.assert_no_complaint();
        let seqs: Vec<u64> = self.heard().iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, (1..=last).collect::<Vec<_>>());
    }
}

impl EventSink for Ear {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        self.demand(
            !self.inside.swap(true, Ordering::SeqCst),
            "called inside itself",
        );
        self.demand(
            !self.closed.load(Ordering::SeqCst),
            "called after unsubscribe returned",
        );
        let Change::SnapshotCreated { id, .. } = envelope.change else {
            unreachable!("nothing else is sent here");
        };
        self.heard.lock().unwrap().push((envelope.seq.0, id.0));
        if let Some(reaction) = &self.reaction {
            reaction(id.0);
        }
        self.demand(
            !self.closed.load(Ordering::SeqCst),
            "still inside after unsubscribe returned",
        );
        self.inside.store(false, Ordering::SeqCst);
    }

    fn on_batch_end(&self) {
        self.demand(
            !self.closed.load(Ordering::SeqCst),
            "batch end after unsubscribe returned",
        );
        *self.ends.lock().unwrap() += 1;
    }
}

fn bus_with(ear: &Arc<Ear>) -> Arc<EventBus> {
    let bus = Arc::new(EventBus::new(true));
    bus.subscribe(ear.clone()).unwrap();
    bus
}

fn spawn_changes(branch: &Arc<Branch>, numbers: std::ops::Range<u64>) -> thread::JoinHandle<()> {
    let branch = branch.clone();
    thread::spawn(move || numbers.for_each(|number| branch.change(number)))
}

#[test]
fn nothing_is_lost_and_the_order_is_that_of_the_commits() {
    model(|| {
        let ear = Arc::new(Ear::default());
        let branch = Branch::new(&bus_with(&ear));
        let others = [
            spawn_changes(&branch, 10..13),
            spawn_changes(&branch, 20..22),
        ];
        branch.change(30);
        for other in others {
            other.join().unwrap();
        }
        ear.assert_heard_all(6);
        assert!(*ear.ends.lock().unwrap() >= 1, "the last batch has an end");
        let of_one: Vec<u64> = ear
            .heard()
            .iter()
            .map(|(_, n)| *n)
            .filter(|n| (10..20).contains(n))
            .collect();
        assert_eq!(of_one, [10, 11, 12], "a thread's own changes stay in order");
    });
}

#[test]
fn when_all_committers_have_returned_everything_is_told() {
    model(|| {
        let ear = Arc::new(Ear::default());
        let branch = Branch::new(&bus_with(&ear));
        let other = spawn_changes(&branch, 1..3);
        branch.change(3);
        other.join().unwrap();
        // No call is needed to push out what remained after the hand-over.
        ear.assert_heard_all(3);
    });
}

#[test]
fn a_committer_hands_over_when_others_go_on_and_nothing_is_lost() {
    let handed_over = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = handed_over.clone();
    model(move || {
        let ear = Arc::new(Ear::default());
        let branch = Branch::handing_over(&bus_with(&ear), 0);
        let others = [spawn_changes(&branch, 1..4), spawn_changes(&branch, 4..6)];
        branch.change(6);
        for other in others {
            other.join().unwrap();
        }
        count.fetch_add(branch.join_successors(), Ordering::Relaxed);
        ear.assert_heard_all(6);
    });
    assert!(handed_over.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_sink_is_not_called_after_unsubscribe_returned() {
    model(|| {
        let (ear, stays) = (Arc::new(Ear::default()), Arc::new(Ear::default()));
        let bus = Arc::new(EventBus::new(true));
        let id = bus.subscribe(ear.clone()).unwrap();
        bus.subscribe(stays.clone()).unwrap();
        let branch = Branch::new(&bus);
        let others = [spawn_changes(&branch, 1..3), spawn_changes(&branch, 3..5)];
        assert_eq!(bus.unsubscribe(id), Ok(true));
        ear.closed.store(true, Ordering::SeqCst);
        for other in others {
            other.join().unwrap();
        }
        stays.assert_heard_all(4);
        ear.assert_no_complaint();
        let heard: Vec<u64> = ear.heard().iter().map(|(seq, _)| *seq).collect();
        let until = u64::try_from(heard.len()).unwrap();
        assert_eq!(
            heard,
            (1..=until).collect::<Vec<_>>(),
            "a sink hears all until it goes"
        );
    });
}

#[test]
fn a_sink_that_subscribes_while_others_emit_hears_an_unbroken_end() {
    model(|| {
        let first = Arc::new(Ear::default());
        let bus = bus_with(&first);
        let branch = Branch::new(&bus);
        let other = spawn_changes(&branch, 1..4);
        let late = Arc::new(Ear::default());
        bus.subscribe(late.clone()).unwrap();
        branch.change(9);
        other.join().unwrap();
        first.assert_heard_all(4);
        let heard: Vec<u64> = late.heard().iter().map(|(seq, _)| *seq).collect();
        let from = heard.first().copied().unwrap_or(5);
        assert_eq!(heard, (from..5).collect::<Vec<_>>());
        assert!(
            late.heard().iter().any(|(_, n)| *n == 9),
            "it was subscribed before this change"
        );
    });
}

#[test]
fn a_sink_may_unsubscribe_itself_and_change_the_branch_again() {
    model(|| {
        let bus = Arc::new(EventBus::new(true));
        let branch = Branch::new(&bus);
        let own = Arc::new(Mutex::new(None));
        let (reacting, of_bus, its_own) = (branch.clone(), bus.clone(), own.clone());
        let reaction: Reaction = Box::new(move |number| {
            if number == 1 {
                reacting.change(100);
                let id = its_own.lock().unwrap().take().unwrap();
                assert_eq!(of_bus.unsubscribe(id), Ok(true));
            }
        });
        let ear = Arc::new(Ear {
            reaction: Some(reaction),
            ..Ear::default()
        });
        *own.lock().unwrap() = Some(bus.subscribe(ear.clone()).unwrap());
        let stays = Arc::new(Ear::default());
        bus.subscribe(stays.clone()).unwrap();
        let other = spawn_changes(&branch, 2..3);
        branch.change(1);
        other.join().unwrap();
        stays.assert_heard_all(3);
        ear.assert_no_complaint();
        assert!(ear.heard().iter().all(|(_, number)| *number < 100));
    });
}

#[test]
fn two_sinks_that_unsubscribe_each_other_do_not_wait_for_each_other() {
    model(|| {
        let bus = Arc::new(EventBus::new(true));
        let (one, two) = (Branch::new(&bus), Branch::new(&bus));
        let ids = Arc::new(Mutex::new(Vec::new()));
        for victim in [1, 0] {
            let (of_bus, ids_of_all) = (bus.clone(), ids.clone());
            let reaction: Reaction = Box::new(move |_| {
                let id = ids_of_all.lock().unwrap()[victim];
                let _was_there = of_bus.unsubscribe(id).unwrap();
            });
            let ear = Arc::new(Quiet(reaction));
            let id = bus.subscribe(ear).unwrap();
            ids.lock().unwrap().push(id);
        }
        let other = spawn_changes(&one, 1..2);
        two.change(2);
        other.join().unwrap();
        assert!(
            ids.lock()
                .unwrap()
                .iter()
                .any(|id| bus.unsubscribe(*id) == Ok(false))
        );
    });
}

/// A sink that only reacts.
struct Quiet(Reaction);

impl EventSink for Quiet {
    fn on_event(&self, event: &EventKind) {
        if let EventKind::SnapshotCreated { id, .. } = event {
            (self.0)(id.0);
        }
    }
}
