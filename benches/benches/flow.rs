//! Every stage of the flow by itself, in one thread: what its code costs, without another processor
//! and without the kernel in the way, but for the doorbell. Run it with `cargo bench -p agentfs-bench
//! --bench flow`.
//!
//! The ring has a benchmark of its own. What a sink adds to a change is in `cargo xtask bench fscore`,
//! beside the same change without events. What the hooks add to a program's calls needs the library
//! preloaded: `cargo bench -p agentfs-interpose-shim`, `cargo xtask bench hook`.

use std::hint::black_box;
use std::sync::Arc;

use agentfs_bench::engine::{Engine, created};
use agentfs_core::event::EventSink as _;
use agentfs_core::id::NodeId;
use agentfs_core::{Caller, FsConfig, FsCore, OpenFlags};
use agentfs_engine::Api;
use agentfs_engine::synth::{fsevents, inotify, native, vnode_freebsd, vnode_xnu};
use agentfs_proto::record::{AgentFsEvent, EventRef, Kind, encode, encoded_len};
use agentfs_ring::doorbell;
use criterion::{Criterion, criterion_group, criterion_main};

const MODE: u32 = 0o100_644;

/// Operations that change something, and nobody listens.
fn operation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("operation");
    let core = FsCore::new(FsConfig::default()).expect("a filesystem");
    let branch = core.branch(FsCore::MAIN).expect("the first branch");
    let caller = Caller::root();
    let dir = branch.mkdir(&caller, "/d", 0o755).expect("made").node;
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    let file = branch.open(&caller, "/d/f", flags, 0o644).expect("open");
    group.bench_function("write one byte", |bencher| {
        bencher.iter(|| branch.write_at(&caller, file, 0, b"x"));
    });
    group.bench_function("create and unlink", |bencher| {
        bencher.iter(|| {
            branch.mknod_at(&caller, dir, b"new", MODE, 0)?;
            branch.unlink_at(&caller, dir, b"new")
        });
    });
    group.bench_function("look up", |bencher| {
        bencher.iter(|| branch.lookup(&caller, dir, black_box(b"f")));
    });
    group.finish();
}

fn dir() -> Arc<[u8]> {
    b"/some/directory".as_slice().into()
}

/// The tables, without a watch.
fn synthesizer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("synthesizer");
    let change = created(NodeId(1), &dir(), b"file").change;
    group.bench_function("inotify", |bencher| {
        bencher.iter(|| inotify::steps(black_box(&change)));
    });
    group.bench_function("kqueue of XNU", |bencher| {
        bencher.iter(|| vnode_xnu::posts(black_box(&change)));
    });
    group.bench_function("kqueue of FreeBSD", |bencher| {
        bencher.iter(|| vnode_freebsd::posts(black_box(&change)));
    });
    group.bench_function("FSEvents", |bencher| {
        bencher.iter(|| fsevents::entries(black_box(&change)));
    });
    group.bench_function("native", |bencher| {
        bencher.iter(|| native::hears(black_box(&change), false));
    });
    group.finish();
}

/// From an event to its record, which the reader takes: one watch among ten thousand, and none.
fn router(criterion: &mut Criterion) {
    const WATCHES: u64 = 10_000;
    let mut group = criterion.benchmark_group("router");
    let engine = Engine::new(false).expect("a service");
    let reader = engine.open(Api::Inotify, 1 << 20).expect("a queue");
    for number in 0..WATCHES {
        let node = NodeId(1000 + number);
        engine
            .watch(&reader, number, node, inotify::IN_CREATE)
            .expect("a watch");
    }
    // In turns, or the second would be the same as the first, which is unread.
    let events = [b"one", b"two"].map(|name| created(NodeId(1000 + WATCHES / 2), &dir(), name));
    group.bench_function("one hit, record and its reading included", |bencher| {
        bencher.iter(|| {
            for event in &events {
                engine.service.on_envelope(event);
            }
            engine.service.on_batch_end();
            reader.pop().expect("records")
        });
    });
    let elsewhere = created(NodeId(1), &dir(), b"one");
    group.bench_function("no hit", |bencher| {
        bencher.iter(|| engine.service.on_envelope(black_box(&elsewhere)));
    });
    group.finish();
}

/// A record into a slot of the ring, and out of it.
fn record(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    let event = AgentFsEvent {
        seqno: 1,
        kind: Kind::CREATED,
        ..AgentFsEvent::default()
    };
    let path = b"/some/directory/file";
    let len = encoded_len(path, b"").expect("short");
    let mut slot = Vec::with_capacity(len);
    encode(&event, path, b"", |part| slot.extend_from_slice(part)).expect("a short path");
    EventRef::parse(&slot).expect("a record");
    group.bench_function("write", |bencher| {
        let mut slot = Vec::with_capacity(len);
        bencher.iter(|| {
            slot.clear();
            let encoded = encode(&event, path, b"", |part| slot.extend_from_slice(part));
            black_box(&slot);
            encoded
        });
    });
    group.bench_function("parse", |bencher| {
        bencher.iter(|| EventRef::parse(black_box(&slot)).map(|it| it.head().seqno));
    });
    group.finish();
}

/// The system calls of a wake-up, on a bell that nobody waits for.
fn bell(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("doorbell");
    for (name, bell) in [("eventfd", doorbell::eventfd()), ("pipe", doorbell::pipe())] {
        let (ringer, waiter) = bell.expect("descriptors");
        group.bench_function(name, |bencher| {
            bencher.iter(|| (ringer.ring().is_ok(), waiter.clear().is_ok()));
        });
    }
    group.finish();
}

criterion_group!(stages, operation, synthesizer, router, record, bell);
criterion_main!(stages);
