//! Tests a reader of an earlier process, which goes on with a queue of this one: it gets what it missed,
//! in order and once, or one overflow record.

use agentfs_core::event::{Change, CreatedBy, Envelope, NodeRef, ObjectKind, Origin, Place};
use agentfs_core::id::{MountId, Seq};
use agentfs_core::{FsConfig, FsCore, LowerChange, Overlay};
use agentfs_engine::service::{NodeInterest, QueueLimits};
use agentfs_engine::synth::inotify::{IN_CREATE, IN_IGNORED, IN_MODIFY};
use agentfs_engine::{Api, WatchId};
use agentfs_proto::record::Kind;

use crate::fixture::{Fixture, Popped, Reader, lower};

/// Returns what an earlier process has committed in a directory and not delivered.
fn before(fixture: &Fixture, dir: &str, name: &str) -> Envelope {
    Envelope {
        seq: Seq(1),
        time_ns: 0,
        branch: FsCore::MAIN,
        pid: 0,
        origin: Origin::Local,
        change: Change::Created {
            node: NodeRef {
                id: fixture.node(dir),
                kind: ObjectKind::File,
                nlink: 1,
                open: false,
            },
            at: Place {
                parent: fixture.node(dir),
                dir: dir.as_bytes().into(),
                name: name.as_bytes().into(),
            },
            by: CreatedBy::New,
        },
    }
}

fn names(popped: Vec<Popped>) -> Vec<String> {
    popped.into_iter().map(|it| it.path).collect()
}

fn held(fixture: &Fixture, missed: Option<Vec<Envelope>>) -> Reader {
    let reader = fixture.open(Api::Inotify);
    fixture.service.hold(&reader.queue, missed);
    reader
}

/// Registers a watch as the daemon does for a program that goes on: no change is too old for it.
fn watch(fixture: &Fixture, reader: &Reader, path: &str, mask: u32, mount: Option<MountId>) {
    let interest = NodeInterest {
        mask,
        mount,
        after: Seq(0),
    };
    let node = fixture.node(path);
    let watched = fixture
        .service
        .watch_node(&reader.queue, WatchId(1), node, interest);
    watched.unwrap();
}

#[test]
fn a_reader_gets_what_it_missed_in_order_and_once() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    let session = fixture.service.waiting_of(crate::fixture::SESSION).unwrap();
    let waiting = || session.load(std::sync::atomic::Ordering::Relaxed);
    fixture.service.keep_changes(|_| true);
    fixture.create("/d/early");
    let missed = before(&fixture, "/d", "before");
    let reader = held(&fixture, Some(vec![missed]));
    assert_eq!(
        (waiting(), fixture.service.missed_through(&reader.queue)),
        (1, None)
    );
    fixture.create("/d/held");
    watch(&fixture, &reader, "/d", IN_CREATE, None);
    fixture.create("/d/watched");
    assert_eq!(fixture.read(&reader), []);
    fixture.service.refill(&reader.queue);
    assert_eq!(waiting(), 0);
    let last = fixture.branch.last_seq();
    assert!(fixture.service.missed_through(&reader.queue) <= Some(last));
    fixture.create("/d/after");
    let heard = names(fixture.read(&reader));
    assert_eq!(heard, ["before", "early", "held", "watched", "after"]);
}

#[test]
fn a_reader_does_not_get_what_the_kernel_announced_on_its_mount() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    fixture.service.keep_changes(|_| true);
    let reader = held(&fixture, Some(Vec::new()));
    fixture.write_as(&fixture.on_mount(3), "/d/on its mount", b"");
    fixture.write_as(&fixture.on_mount(4), "/d/on another", b"");
    watch(&fixture, &reader, "/d", IN_CREATE, Some(MountId(3)));
    fixture.service.refill(&reader.queue);
    assert_eq!(names(fixture.read(&reader)), ["on another"]);
}

#[test]
fn changes_of_the_host_are_among_those_that_were_kept() {
    let host = lower(&["f"]);
    let config = FsConfig {
        overlay: Some(Overlay {
            lower: host.path().to_owned(),
        }),
        ..FsConfig::default()
    };
    let fixture = Fixture::with(config, QueueLimits::default());
    fixture.service.keep_changes(|_| true);
    let reader = held(&fixture, Some(Vec::new()));
    watch(&fixture, &reader, "/", IN_MODIFY, None);
    fixture
        .core
        .lower_changed(&LowerChange::Written("f".into()));
    fixture.service.refill(&reader.queue);
    assert_eq!(names(fixture.read(&reader)), ["f"]);
    assert_eq!(fixture.service.counts().overflowed, 0);
}

#[test]
fn a_reader_of_which_it_is_not_known_what_it_missed_gets_one_overflow() {
    type Prepare = fn(&Fixture) -> Reader;
    let cases: [Prepare; 4] = [
        |fixture| held(fixture, None),
        |fixture| {
            fixture.service.forget_changes();
            held(fixture, Some(Vec::new()))
        },
        |fixture| {
            fixture.service.lose_changes(FsCore::MAIN);
            held(fixture, Some(Vec::new()))
        },
        |fixture| {
            let reader = held(fixture, Some(Vec::new()));
            fixture.service.overflow_all();
            reader
        },
    ];
    for prepare in cases {
        let fixture = Fixture::new();
        fixture.mkdir("/d");
        fixture.service.keep_changes(|_| true);
        let reader = prepare(&fixture);
        fixture.create("/d/missed");
        watch(&fixture, &reader, "/d", IN_CREATE, None);
        assert_eq!(fixture.read(&reader), []);
        fixture.service.refill(&reader.queue);
        fixture.create("/d/after");
        let heard = fixture.read(&reader);
        assert_eq!(heard[0].head.kind, Kind::OVERFLOW);
        assert_eq!(names(heard), ["", "after"]);
    }
}

#[test]
fn a_watch_whose_node_went_meanwhile_ends() {
    let fixture = Fixture::new();
    fixture.create("/f");
    fixture.service.keep_changes(|_| true);
    let reader = held(&fixture, Some(Vec::new()));
    watch(&fixture, &reader, "/f", IN_MODIFY, None);
    fixture.unlink("/f");
    fixture.service.refill(&reader.queue);
    let heard = fixture.read(&reader);
    assert_eq!(heard.last().unwrap().head.mask, IN_IGNORED);
}
