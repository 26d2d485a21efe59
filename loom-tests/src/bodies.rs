//! The models: what each end does, and what must be true afterwards.

use agentfs_ring::{
    ArmOutcome, Bell, Claim, Consumer, Position, Producer, Refill, Reservation, Reserve,
};

use crate::side::{Side, Tally, Woken};

/// One model.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// What it is called in test names and in the table of mutants.
    pub name: &'static str,
    /// Bytes of the record area under loom: two or three frames. Natively it is 4 KiB.
    pub capacity: u32,
    /// Consumers: threads under loom, processes natively.
    pub consumers: usize,
    /// Records under loom.
    pub items: u64,
    /// Records natively.
    pub native_items: u64,
    /// Loom's limit on preemptions: a full exploration takes hours, and no mutant needs more than
    /// three. `LOOM_MAX_PREEMPTIONS` sets another.
    pub preemption_bound: usize,
    /// The producer's end.
    pub producer: fn(&mut Producer, &Side),
    /// A consumer's end.
    pub consumer: fn(&Consumer, &Side),
    /// What must be true when all ends are done: the counters and the number of records.
    pub check: fn(&Tally, u64),
}

/// All of them, smallest first.
pub const MODELS: &[Model] = &[
    PUBLISH_OBSERVE,
    WRAP_WITH_PADDING,
    ARM_VERSUS_PUBLISH,
    BATCH_PUBLISH,
    FULL_THEN_REFILL,
    COALESCE_VERSUS_RELEASE,
    PEER_EXIT_PRODUCER,
    PEER_EXIT_CONSUMER,
    HAND_OVER,
    PEEK_AND_HAND_OVER,
    REFILL_WITH_PADDING,
    TAKE_OVER,
];

const TWO_ENDS: Model = Model {
    name: "",
    capacity: 64,
    consumers: 1,
    items: 2,
    native_items: 20_000,
    preemption_bound: 6,
    producer: |_, _| {},
    consumer: |_, _| {},
    check: everything_arrived,
};

/// Records become visible whole and in order; the consumer looks without ever sleeping.
pub const PUBLISH_OBSERVE: Model = Model {
    name: "publish_observe",
    producer: push_all,
    consumer: |consumer, side| {
        let mut claim = claim(consumer, side);
        for item in 0..side.items() {
            while !take(&mut claim, item) {
                side.idle();
            }
            free(&mut claim, side);
        }
    },
    ..TWO_ENDS
};

/// Records of changing length wrap behind padding, over bytes that were read before.
pub const WRAP_WITH_PADDING: Model = Model {
    name: "wrap_with_padding",
    items: 4,
    producer: |producer, side| {
        for item in 0..side.items() {
            push(producer, side, item, [16, 8][usize::from(item % 3 == 2)]);
        }
    },
    consumer: pop_all_spinning,
    ..TWO_ENDS
};

/// The consumer sleeps whenever it may: no wake-up is lost and none is given twice.
pub const ARM_VERSUS_PUBLISH: Model = Model {
    name: "arm_versus_publish",
    producer: push_all,
    consumer: pop_all_sleeping,
    check: |tally, items| {
        everything_arrived(tally, items);
        at_most_one_ring_per_arm(tally);
    },
    ..TWO_ENDS
};

/// Two records become visible at once and ring once.
pub const BATCH_PUBLISH: Model = Model {
    name: "batch_publish",
    items: 4,
    producer: |producer, side| {
        for first in (0..side.items()).step_by(2) {
            for item in [first, first + 1] {
                commit(producer, side, item, 8);
            }
            publish(producer, side);
        }
    },
    consumer: |consumer, side| {
        let mut claim = claim(consumer, side);
        for first in (0..side.items()).step_by(2) {
            while !take(&mut claim, first) {
                sleep(&mut claim, side);
            }
            assert!(take(&mut claim, first + 1), "half a batch");
            side.tally().count_popped();
            free(&mut claim, side);
        }
    },
    check: |tally, items| {
        everything_arrived(tally, items);
        at_most_one_ring_per_arm(tally);
        assert!(tally.rings() <= items.div_ceil(2), "one ring a batch");
    },
    ..TWO_ENDS
};

/// A full ring: the producer sleeps until the consumer rings back, which it does when there is room.
pub const FULL_THEN_REFILL: Model = Model {
    name: "full_then_refill",
    capacity: 32,
    items: 3,
    producer: |producer, side| {
        for item in 0..side.items() {
            while !try_push(producer, side, item, 8) {
                match producer.request_refill(8).expect("an honest consumer") {
                    Refill::SpaceNow => {}
                    Refill::Requested => assert_eq!(side.wait(), Woken::Rung, "never refilled"),
                }
            }
        }
    },
    consumer: pop_all_spinning,
    ..TWO_ENDS
};

/// An event left out because the last record is unread is covered: whoever gets that record looks
/// at the filesystem after the change. Were it not so, the consumer would sleep over an old state.
pub const COALESCE_VERSUS_RELEASE: Model = Model {
    name: "coalesce_versus_release",
    producer: |producer, side| {
        let mut last: Option<Position> = None;
        for value in 1..=side.items() {
            side.change_file(value);
            let covered = match last {
                Some(at) => producer.is_unread(at).expect("an honest consumer"),
                None => false,
            };
            if !covered {
                last = Some(commit(producer, side, value, 8));
                publish(producer, side);
            }
        }
    },
    consumer: |consumer, side| {
        let mut claim = claim(consumer, side);
        loop {
            while claim.next().expect("an honest producer").is_some() {
                free(&mut claim, side);
                if side.look_at_file() == side.items() {
                    return;
                }
            }
            sleep(&mut claim, side);
        }
    },
    check: |tally, items| assert!(tally.pushed() <= items, "a record too many"),
    ..TWO_ENDS
};

/// The producer exits: what it had published is still read, then the consumer hears of the exit.
pub const PEER_EXIT_PRODUCER: Model = Model {
    name: "peer_exit_producer",
    native_items: 50,
    producer: push_all,
    consumer: |consumer, side| {
        let mut claim = claim(consumer, side);
        let mut item = 0;
        loop {
            while take(&mut claim, item) {
                free(&mut claim, side);
                item += 1;
            }
            side.tally().count_arm();
            let armed = claim.arm().expect("an honest producer");
            if armed == ArmOutcome::MaySleep && side.wait() == Woken::PeerGone {
                break;
            }
        }
        while take(&mut claim, item) {
            free(&mut claim, side);
            item += 1;
        }
        assert_eq!(item, side.items(), "records lost in the producer's exit");
    },
    ..TWO_ENDS
};

/// The consumer exits with a full ring: the producer hears of it instead of waiting for ever.
pub const PEER_EXIT_CONSUMER: Model = Model {
    name: "peer_exit_consumer",
    capacity: 32,
    items: 4,
    producer: |producer, side| {
        let mut item = 0;
        loop {
            if try_push(producer, side, item, 8) {
                item += 1;
                continue;
            }
            match producer.request_refill(8).expect("an honest consumer") {
                Refill::SpaceNow => {}
                Refill::Requested => match side.wait() {
                    Woken::Rung => {}
                    Woken::PeerGone => break,
                },
            }
        }
    },
    consumer: |consumer, side| {
        let mut claim = claim(consumer, side);
        while !take(&mut claim, 0) {
            side.idle();
        }
        free(&mut claim, side);
    },
    check: |tally, _| assert_eq!(tally.popped(), 1),
    ..TWO_ENDS
};

/// Two consumers share one end: each record is popped once, in order.
pub const HAND_OVER: Model = Model {
    name: "hand_over",
    consumers: 2,
    preemption_bound: 3,
    producer: push_all,
    consumer: |consumer, side| pop_in_turns(consumer, side, |_| true),
    check: nothing_repeated,
    ..TWO_ENDS
};

/// A consumer that only looked hands over to one that frees, and the producer writes over what the
/// first one read.
pub const PEEK_AND_HAND_OVER: Model = Model {
    name: "peek_and_hand_over",
    // Two processes take turns: each record costs a switch between them.
    native_items: 500,
    capacity: 32,
    consumers: 2,
    preemption_bound: 3,
    items: 3,
    producer: |producer, side| {
        let mut item = 0;
        for _ in 0..side.tries() {
            if item < side.items() && try_push(producer, side, item, 8) {
                item += 1;
            } else if item == side.items() {
                break;
            } else {
                side.idle();
            }
        }
    },
    // Even records are freed by one consumer and odd ones by the other.
    consumer: |consumer, side| {
        pop_in_turns(consumer, side, |item| side.owner().get() % 2 == item % 2);
    },
    check: nothing_repeated,
};

/// A record that has room only behind padding: the consumer rings back when both fit.
pub const REFILL_WITH_PADDING: Model = Model {
    name: "refill_with_padding",
    items: 3,
    producer: |producer, side| {
        for item in 0..side.items() {
            let len = if item % 3 == 1 { 24 } else { 16 };
            while !try_push(producer, side, item, len) {
                match producer.request_refill(len).expect("an honest consumer") {
                    Refill::SpaceNow => {}
                    Refill::Requested => assert_eq!(side.wait(), Woken::Rung, "never refilled"),
                }
            }
        }
    },
    consumer: pop_all_spinning,
    ..TWO_ENDS
};

/// A consumer dies with a record in its hand, freed or not, and the other one goes on from there.
pub const TAKE_OVER: Model = Model {
    name: "take_over",
    consumers: 2,
    preemption_bound: 2,
    producer: push_all,
    consumer: |consumer, side| {
        for _ in 0..side.tries() {
            if side.tally().popped() >= side.items() {
                return;
            }
            if let Some(mut claim) = consumer.claim(side.owner(), |it| !side.is_dead(it)) {
                let item = side.tally().popped();
                if take(&mut claim, item) {
                    let dies = side.owner().get() == 1;
                    if !dies || item % 2 == 1 {
                        free(&mut claim, side);
                    }
                    if dies {
                        let _never_given_back = core::mem::ManuallyDrop::new(claim);
                        side.die();
                        return;
                    }
                    continue;
                }
            }
            side.give_way();
        }
    },
    check: nothing_repeated,
    ..TWO_ENDS
};

/// Claims for one record at a time; frees it if it is `mine`, otherwise only looks.
fn pop_in_turns(consumer: &Consumer, side: &Side, mine: impl Fn(u64) -> bool) {
    for _ in 0..side.tries() {
        if side.tally().popped() >= side.items() {
            return;
        }
        if let Some(mut claim) = consumer.claim(side.owner(), |_| true) {
            let item = side.tally().popped();
            if take(&mut claim, item) && mine(item) {
                free(&mut claim, side);
                continue;
            }
        }
        side.give_way();
    }
}

/// Whether consumers read to the end. Under loom they give up early.
const READS_EVERYTHING: bool = cfg!(not(loom));

fn nothing_repeated(tally: &Tally, items: u64) {
    // What was popped has been compared.
    assert!(tally.popped() <= tally.pushed() && tally.pushed() <= items);
    if READS_EVERYTHING {
        everything_arrived(tally, items);
    }
}

fn everything_arrived(tally: &Tally, items: u64) {
    assert_eq!((tally.pushed(), tally.popped()), (items, items));
}

fn at_most_one_ring_per_arm(tally: &Tally) {
    assert!(
        tally.rings() <= tally.arms(),
        "{} rings, {} arms",
        tally.rings(),
        tally.arms()
    );
}

fn push_all(producer: &mut Producer, side: &Side) {
    for item in 0..side.items() {
        push(producer, side, item, 8);
    }
}

/// Pushes, looking again and again while the ring is full.
fn push(producer: &mut Producer, side: &Side, item: u64, len: usize) {
    while !try_push(producer, side, item, len) {
        side.idle();
    }
}

fn try_push(producer: &mut Producer, side: &Side, item: u64, len: usize) -> bool {
    let Some(_) = try_commit(producer, side, item, len) else {
        return false;
    };
    publish(producer, side);
    true
}

fn commit(producer: &mut Producer, side: &Side, item: u64, len: usize) -> Position {
    loop {
        if let Some(at) = try_commit(producer, side, item, len) {
            return at;
        }
        side.idle();
    }
}

fn try_commit(producer: &mut Producer, side: &Side, item: u64, len: usize) -> Option<Position> {
    match producer.reserve(len).expect("an honest consumer") {
        Reserve::Slot(slot) => {
            side.tally().count_pushed();
            Some(fill(slot, item, len))
        }
        Reserve::Full => None,
        Reserve::TooLong => panic!("a record of {len} bytes fits every model"),
    }
}

fn fill(mut slot: Reservation<'_>, item: u64, len: usize) -> Position {
    for _ in 0..len / 8 {
        slot.put(&item.to_ne_bytes());
    }
    slot.commit()
}

fn publish(producer: &mut Producer, side: &Side) {
    if producer.publish().expect("an honest consumer") == Bell::Ring {
        side.tally().count_ring();
        side.ring();
    }
}

fn claim<'a>(consumer: &'a Consumer, side: &Side) -> Claim<'a> {
    consumer
        .claim(side.owner(), |_| true)
        .expect("the only consumer")
}

/// Takes the next record if there is one, which must be `item` in every word.
fn take(claim: &mut Claim<'_>, item: u64) -> bool {
    match claim.next().expect("an honest producer") {
        Some(record) => {
            assert!(record.len() > 0);
            for word in record.to_vec().chunks(8) {
                assert_eq!(word, item.to_ne_bytes(), "a torn, lost or repeated record");
            }
            true
        }
        None => false,
    }
}

fn free(claim: &mut Claim<'_>, side: &Side) {
    side.tally().count_popped();
    if claim.release() == Bell::Ring {
        side.ring();
    }
}

fn sleep(claim: &mut Claim<'_>, side: &Side) {
    side.tally().count_arm();
    if claim.arm().expect("an honest producer") == ArmOutcome::MaySleep {
        assert_eq!(
            side.wait(),
            Woken::Rung,
            "asleep over a record, or over a change"
        );
    }
}

fn pop_all_spinning(consumer: &Consumer, side: &Side) {
    let mut claim = claim(consumer, side);
    for item in 0..side.items() {
        while !take(&mut claim, item) {
            side.idle();
        }
        free(&mut claim, side);
    }
}

fn pop_all_sleeping(consumer: &Consumer, side: &Side) {
    let mut claim = claim(consumer, side);
    for item in 0..side.items() {
        while !take(&mut claim, item) {
            sleep(&mut claim, side);
        }
        free(&mut claim, side);
    }
}
