//! Tests the bell of an inotify queue, which wakes and entitles nobody: under `--cfg loom` in every
//! interleaving with few preemptions, otherwise many times between threads.

use agentfs_loom_tests::descriptor::{Daemon, Descriptor, hooked_read, pop, take_one};
use agentfs_ring::{Armed, Consumer, RecordBuffer};

#[cfg(loom)]
mod world {
    use agentfs_ring::{Capacity, Consumer, Producer};
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::thread::{spawn, yield_now};

    /// How often a thread tries what may fail because of another one.
    pub(crate) const TRIES: usize = 2;

    /// Makes a ring of `frames` items.
    pub(crate) fn ring(frames: u32) -> (Producer, Consumer) {
        agentfs_ring::heap_for_unclaimed(Capacity::for_model(frames * 16))
    }

    pub(crate) fn model(bound: usize, body: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(bound));
        builder.check(body);
    }
}

#[cfg(not(loom))]
mod world {
    use agentfs_ring::{Capacity, Consumer, Producer};
    pub(crate) use std::sync::Arc;
    pub(crate) use std::thread::{spawn, yield_now};

    pub(crate) const TRIES: usize = 1000;

    pub(crate) fn ring(_frames: u32) -> (Producer, Consumer) {
        agentfs_ring::heap(Capacity::MIN).expect("a ring")
    }

    pub(crate) fn model(_bound: usize, body: impl Fn() + Send + Sync + 'static) {
        for _ in 0..500 {
            body();
        }
    }
}

use world::{Arc, TRIES, model, ring, spawn, yield_now};

/// What the ends of a model share.
#[derive(Clone)]
struct Program {
    consumer: Arc<Consumer>,
    descriptor: Arc<Descriptor>,
}

/// Makes the two ends. The ring is empty and armed, as the library leaves a new one.
fn scene(frames: u32) -> (Daemon, Program) {
    let (producer, consumer) = ring(frames);
    assert_eq!(consumer.arm(), Ok(Armed::MaySleep));
    let program = Program {
        consumer: Arc::new(consumer),
        descriptor: Arc::new(Descriptor::default()),
    };
    (Daemon::new(producer), program)
}

impl Program {
    fn read(&self, most: usize) -> Vec<u64> {
        hooked_read(&self.consumer, &self.descriptor, most)
    }

    /// Reads until `count` items are there.
    fn read_all(&self, count: usize) -> Vec<u64> {
        let mut items = Vec::new();
        while items.len() < count {
            items.extend(self.read(count));
        }
        items
    }

    fn pop(&self) -> Vec<u64> {
        pop(&self.consumer, &self.descriptor, usize::MAX)
    }
}

#[test]
fn a_sleeping_reader_is_woken_for_every_record() {
    model(4, || {
        let (mut daemon, program) = scene(4);
        let reader = spawn({
            let program = program.clone();
            move || program.read_all(2)
        });
        for item in 1..=2 {
            assert!(daemon.push(&program.descriptor, item));
        }
        assert_eq!(reader.join().expect("the reader"), [1, 2]);
    });
}

#[test]
fn what_does_not_fit_leaves_the_descriptor_readable() {
    model(3, || {
        let (mut daemon, program) = scene(4);
        let reader = spawn({
            let program = program.clone();
            move || program.read(1)
        });
        for item in 1..=2 {
            assert!(daemon.push(&program.descriptor, item));
        }
        assert_eq!(reader.join().expect("the reader"), [1]);
        assert!(
            program.descriptor.is_readable(),
            "poll says nothing of an item"
        );
        assert_eq!(program.read(1), [2]);
    });
}

#[test]
fn a_bell_that_an_unhooked_reader_swallows_deafens_nobody() {
    model(4, || {
        let (mut daemon, program) = scene(4);
        let unhooked = spawn({
            let program = program.clone();
            move || program.descriptor.swallow()
        });
        assert!(daemon.push(&program.descriptor, 1));
        unhooked.join().expect("the unhooked reader");
        assert_eq!(program.read(2), [1]);
        // The ring is armed again.
        assert!(daemon.push(&program.descriptor, 2));
        assert!(program.descriptor.is_readable());
        assert_eq!(program.read(2), [2]);
    });
}

#[test]
fn a_sleeper_whose_bell_was_swallowed_is_woken_by_the_next_change() {
    model(3, || {
        let (mut daemon, program) = scene(4);
        let sleeper = spawn({
            let program = program.clone();
            move || program.read_all(2)
        });
        let unhooked = spawn({
            let program = program.clone();
            move || program.descriptor.swallow()
        });
        assert!(daemon.push(&program.descriptor, 1));
        unhooked.join().expect("the unhooked reader");
        assert!(daemon.push(&program.descriptor, 2));
        // Much later: nobody has read.
        daemon.ring_again(&program.descriptor);
        assert_eq!(sleeper.join().expect("the sleeper"), [1, 2]);
    });
}

/// Where a reader ends that has the bell.
#[derive(Clone, Copy, Debug)]
enum Death {
    BeforeItPops,
    WithACopy,
    BeforeItArms,
}

fn die(program: &Program, death: Death) -> Vec<u64> {
    let mut buffer = RecordBuffer::new();
    program.descriptor.read();
    match death {
        Death::BeforeItPops => Vec::new(),
        Death::WithACopy => {
            let _ = program
                .consumer
                .peek(&mut buffer)
                .expect("an honest producer");
            Vec::new()
        }
        Death::BeforeItArms => {
            let copied = program
                .consumer
                .peek(&mut buffer)
                .expect("an honest producer");
            let place = copied.map(|it| it.place());
            let taken = place.and_then(|it| program.consumer.take(it));
            taken.map(|_| 1).into_iter().collect()
        }
    }
}

#[test]
fn a_reader_that_dies_between_its_read_and_its_pop_leaves_the_records_to_the_next() {
    for death in [Death::BeforeItPops, Death::WithACopy, Death::BeforeItArms] {
        model(3, move || {
            let (mut daemon, program) = scene(4);
            let dying = spawn({
                let program = program.clone();
                move || die(&program, death)
            });
            for item in 1..=2 {
                assert!(daemon.push(&program.descriptor, item));
            }
            let mut items = dying.join().expect("the dying reader");
            while items.len() < 2 {
                items.extend(program.read(2));
            }
            assert_eq!(items, [1, 2]);
        });
    }
}

#[test]
fn of_two_readers_each_record_has_one_and_none_is_torn() {
    // Later frames begin elsewhere than those that they are written over, so that a reader that is late may
    // find what is no frame at all.
    const WORDS: [usize; 3] = [1, 3, 3];
    model(2, || {
        let (mut daemon, program) = scene(4);
        let readers = [1, 2].map(|_| {
            let program = program.clone();
            spawn(move || {
                let mut items = Vec::new();
                for _ in 0..TRIES {
                    items.extend(take_one(&program.consumer));
                }
                items
            })
        });
        let mut pushed = 0;
        for _ in 0..2 * TRIES {
            let words = WORDS.get(pushed).copied();
            let item = pushed as u64 + 1;
            if words.is_some_and(|words| daemon.push_long(&program.descriptor, item, words)) {
                pushed += 1;
            } else {
                yield_now();
            }
        }
        let mut items: Vec<u64> = Vec::new();
        for reader in readers {
            items.extend(reader.join().expect("a reader"));
        }
        items.extend(program.pop());
        items.sort_unstable();
        let expected: Vec<u64> = (1..=pushed as u64).collect();
        assert_eq!(items, expected, "lost or repeated");
    });
}

#[test]
fn a_reader_that_is_killed_while_it_arms_takes_no_wake_up_away() {
    model(2, || {
        let (mut daemon, program) = scene(4);
        let killed = spawn({
            let program = program.clone();
            // It does not live to ring for what came at the same moment.
            move || {
                let _armed = program.consumer.arm().unwrap();
            }
        });
        let reader = spawn({
            let program = program.clone();
            move || program.read_all(2)
        });
        for item in 1..=2 {
            assert!(daemon.push(&program.descriptor, item));
        }
        killed.join().expect("the killed reader");
        assert_eq!(reader.join().expect("the reader"), [1, 2]);
    });
}

/// A signal handler that reads runs to its end inside its own thread's read, or jumps out of it.
#[test]
fn a_handler_that_reads_inside_of_a_read_neither_waits_nor_repeats() {
    for jumps in [false, true] {
        model(3, move || {
            let (mut daemon, program) = scene(4);
            let reader = spawn({
                let program = program.clone();
                move || {
                    let mut buffer = RecordBuffer::new();
                    program.descriptor.read();
                    let copied = program.consumer.peek(&mut buffer);
                    let copied = copied.expect("an honest producer").map(|it| it.place());
                    // The handler.
                    let mut items = program.pop();
                    if !jumps && copied.is_some_and(|it| program.consumer.take(it).is_some()) {
                        items.push(u64::MAX);
                    }
                    while items.len() < 2 {
                        items.extend(program.read(2));
                    }
                    items
                }
            });
            for item in 1..=2 {
                assert!(daemon.push(&program.descriptor, item));
            }
            assert_eq!(reader.join().expect("the reader"), [1, 2]);
        });
    }
}

/// The models' rings are as small as they may be; this is about one of a real size.
#[cfg(not(loom))]
#[test]
fn a_record_that_is_too_long_to_copy_can_be_taken() {
    use agentfs_ring::{Bell, Capacity, Reserve};
    let (mut producer, consumer) = agentfs_ring::heap(Capacity::MIN).expect("a ring");
    let Reserve::Slot(slot) = producer.reserve(1000).expect("honest") else {
        panic!("an empty ring has room");
    };
    slot.commit();
    assert_eq!(producer.publish(), Ok(Bell::Quiet));
    let mut buffer = RecordBuffer::new();
    let copied = consumer
        .peek(&mut buffer)
        .expect("honest")
        .expect("a record");
    assert_eq!(copied.bytes(), None);
    let place = copied.place();
    assert_eq!(consumer.take(place), Some(Bell::Quiet));
    assert!(consumer.peek(&mut buffer).expect("honest").is_none());
}
