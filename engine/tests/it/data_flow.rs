//! Follows one write through every stage: what FsCore emits, the events of each API, the bytes in
//! the ring, and the doorbell.
//!
//! A reader of the code meets the same stages in seven files, each of which calls the next:
//!
//! 1. `fscore/src/ops/write.rs` changes the file and reports what changed,
//! 2. `fscore/src/branch/transaction.rs` commits it and puts the change into the outbox,
//! 3. `fscore/src/branch/event_bus.rs` hands it to the sinks,
//! 4. `engine/src/service/deliver.rs` asks `route.rs` which watches match it, one queue after the
//!    other,
//! 5. `engine/src/record_writer.rs` makes a record of the event for each of these watches,
//! 6. `engine/src/channel.rs` writes it into the ring, publishes it and rings the doorbell,
//! 7. `ring/src/producer.rs` has the store by which the reader sees it.

use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use agentfs_core::event::{Change, Envelope, EventKind, EventSink, Origin, SizeChange};
use agentfs_core::id::MountId;
use agentfs_core::{Caller, HandleId, OpenFlags};
use agentfs_engine::Api;
use agentfs_engine::synth::inotify::{self, EntryName, Heard, IN_MODIFY};
use agentfs_engine::synth::vnode::{self, NOTE_EXTEND, NOTE_WRITE};
use agentfs_engine::synth::{Role, vnode_xnu};
use agentfs_proto::record::{AgentFsEvent, EventRef, HEAD_LEN, Kind, encode};
use agentfs_ring::doorbell::Woken;
use agentfs_ring::{ArmOutcome, OwnerId};

use crate::fixture::{Fixture, Reader};

/// A wait that is longer than any step takes here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A sink beside the engine's that keeps each change, and the thread that emitted it.
#[derive(Debug, Default)]
struct Emitted(Mutex<Vec<(Envelope, ThreadId)>>);

impl EventSink for Emitted {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        let emitted = (envelope.clone(), thread::current().id());
        self.0.lock().unwrap().push(emitted);
    }
}

impl Emitted {
    /// Returns the only change since the last call.
    fn one(&self) -> (Envelope, ThreadId) {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap());
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
}

/// A program that has `/d/f` open for writing.
struct Writer {
    caller: Caller,
    handle: HandleId,
}

fn writer(fixture: &Fixture) -> Writer {
    fixture.mkdir("/d");
    fixture.mkdir("/elsewhere");
    let caller = fixture.on_mount(3).with_pid(4321);
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    let handle = fixture.branch.open(&caller, "/d/f", flags, 0o644).unwrap();
    Writer { caller, handle }
}

/// Returns the bytes of the only record in a ring.
fn record_bytes(reader: &Reader) -> Vec<u8> {
    let claim = reader.consumer.claim(OwnerId::this_process(), |_| true);
    let mut claim = claim.unwrap();
    let bytes = claim.next().unwrap().expect("a record").to_vec();
    assert!(claim.next().unwrap().is_none(), "one record and no more");
    bytes
}

fn encoded(event: &AgentFsEvent, path: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(event, path, &[], |part| bytes.extend_from_slice(part)).unwrap();
    bytes
}

/// Checks the synthesizer: which events each API has for the write, and what watches for
/// modifications hear.
#[track_caller]
fn assert_synthesized(change: &Change) {
    let steps = inotify::steps(change);
    let [of_dir, of_file] = &*steps else {
        panic!("{steps:?}");
    };
    assert_eq!((of_dir.role, of_dir.name), (Role::Parent, EntryName::Old));
    assert_eq!(inotify::hear(IN_MODIFY, of_dir), Heard::Event);
    assert_eq!(
        (of_file.role, of_file.name),
        (Role::Object, EntryName::None)
    );
    let posts = vnode_xnu::posts(change);
    let heard = posts.iter().map(|post| vnode::hear(NOTE_WRITE, post));
    assert_eq!(heard.collect::<Vec<u32>>(), [0, NOTE_WRITE]);
}

#[test]
fn one_write_is_one_record_in_each_ring_and_one_bell_for_each_sleeper() {
    let fixture = Fixture::new();
    let writer = writer(&fixture);
    let emitted = Arc::new(Emitted::default());
    fixture.core.subscribe_events(emitted.clone()).unwrap();
    let (dir, file) = (fixture.node("/d"), fixture.node("/d/f"));

    // These watch: one for the directory, one for the file, one for everything, and one for a
    // directory that has no part in the write.
    let inotify = fixture.open(Api::Inotify);
    fixture.watch(&inotify, 11, "/d", IN_MODIFY);
    let kqueue = fixture.open(Api::KqueueXnu);
    fixture.watch(&kqueue, 12, "/d/f", NOTE_WRITE);
    let native = fixture.open(Api::Native);
    fixture.watch_trees(&native, 13, &["/"], 0);
    let aside = fixture.open(Api::KqueueXnu);
    fixture.watch(&aside, 14, "/elsewhere", NOTE_WRITE);
    // One reader sleeps, and so does one that the write does not concern. The others are awake.
    assert_eq!(kqueue.arm(), ArmOutcome::MaySleep);
    assert_eq!(aside.arm(), ArmOutcome::MaySleep);
    let before = fixture.service.counts();

    // This is the mutation. When it returns, all that follows has happened in this thread.
    let written = fixture
        .branch
        .write(&writer.caller, writer.handle, b"hello");
    assert_eq!(written, Ok(5));

    // FsCore commits, and then emits.
    let (envelope, thread) = emitted.one();
    assert_eq!(thread, thread::current().id());
    assert_eq!(envelope.seq, fixture.branch.last_seq());
    assert_eq!(envelope.origin, Origin::Mount(MountId(3)));
    let Change::Written { node, at, size } = &envelope.change else {
        panic!("{envelope:?}");
    };
    assert_eq!((node.id, *size), (file, SizeChange::Grew));
    let place = at.as_ref().unwrap();
    assert_eq!((place.parent, &*place.dir), (dir, &b"/d"[..]));

    assert_synthesized(&envelope.change);

    // The rings hold the bytes of the records.
    let event = AgentFsEvent {
        seqno: envelope.seq.0,
        ts_nanos: envelope.time_ns,
        node: file.0,
        kind: Kind::MODIFIED,
        ..AgentFsEvent::default()
    };
    let of_inotify = AgentFsEvent {
        watch: 11,
        node: dir.0,
        mask: IN_MODIFY,
        ..event
    };
    assert_eq!(record_bytes(&inotify), encoded(&of_inotify, b"f"));
    let of_kqueue = AgentFsEvent {
        watch: 12,
        mask: NOTE_WRITE,
        ..event
    };
    let bytes = record_bytes(&kqueue);
    assert_eq!(bytes, encoded(&of_kqueue, b""));
    assert_eq!(bytes.len(), HEAD_LEN, "kqueue names no path");
    assert_eq!(bytes[..8], envelope.seq.0.to_ne_bytes());
    let of_native = AgentFsEvent {
        watch: 13,
        data: 4321,
        ..event
    };
    let bytes = record_bytes(&native);
    assert_eq!(bytes, encoded(&of_native, b"/d/f"));
    assert_eq!(EventRef::parse(&bytes).unwrap().path(), b"/d/f");

    // Only the doorbell of the reader that slept and was concerned is rung.
    assert_eq!(
        kqueue.doorbell.wait(None, Some(PATIENCE)).unwrap(),
        Woken::Rung
    );
    let counts = fixture.service.counts();
    assert_eq!(counts.published - before.published, 3);
    assert_eq!(counts.doorbells - before.doorbells, 1);
    assert_eq!(aside.pop(1).0, []);
    for quiet in [&native, &aside] {
        let woken = quiet.doorbell.wait(None, Some(Duration::ZERO)).unwrap();
        assert_eq!(woken, Woken::TimedOut);
    }
}

#[test]
fn what_is_written_again_before_the_reader_comes_is_in_the_same_record() {
    let fixture = Fixture::new();
    let writer = writer(&fixture);
    let kqueue = fixture.open(Api::KqueueXnu);
    fixture.watch(&kqueue, 1, "/d/f", NOTE_WRITE | NOTE_EXTEND);
    assert_eq!(kqueue.arm(), ArmOutcome::MaySleep);
    for _ in 0..100 {
        let written = fixture.branch.write(&writer.caller, writer.handle, b"x");
        assert_eq!(written, Ok(1));
    }
    // Each new bit has a record of its own: XNU posts the extension before the write.
    let (records, _) = kqueue.pop(usize::MAX);
    let masks: Vec<u32> = records.iter().map(|record| record.head.mask).collect();
    assert_eq!(masks, [NOTE_EXTEND, NOTE_WRITE]);
    let counts = fixture.service.counts();
    assert_eq!((counts.coalesced, counts.doorbells), (198, 1));
}

#[test]
fn the_mount_that_a_write_came_through_hears_it_from_the_kernel_alone() {
    let fixture = Fixture::new();
    let writer = writer(&fixture);
    let (own, other) = (fixture.open(Api::Inotify), fixture.open(Api::Inotify));
    fixture.watch_from(&own, 1, "/d", IN_MODIFY, Some(MountId(3)));
    fixture.watch_from(&other, 1, "/d", IN_MODIFY, Some(MountId(4)));
    let written = fixture.branch.write(&writer.caller, writer.handle, b"x");
    assert_eq!(written, Ok(1));
    assert_eq!(own.pop(1).0, []);
    let (records, _) = other.pop(2);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].head.mask, IN_MODIFY);
}
