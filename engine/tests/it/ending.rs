//! Tests that a session or queue that ends takes everything it had with it, and harms no other.

use std::os::fd::{AsRawFd as _, OwnedFd};

use agentfs_core::id::SessionId;
use agentfs_engine::Api;
use agentfs_engine::synth::inotify::IN_CREATE;
use agentfs_engine::synth::vnode::NOTE_WRITE;
use agentfs_ring::{ArmOutcome, Capacity};

use crate::fixture::{Fixture, SESSION, masks};

/// Returns how many open descriptors lead to memory of a ring.
fn rings() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().contains("agentfs-ring"))
        .count()
}

/// Returns how many mappings of rings this process has.
fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let ring = |line: &&str| line.contains("agentfs-ring");
    maps.lines().filter(ring).count()
}

/// This test runs alone in a process, because it counts what the whole process has.
#[test]
fn a_session_that_ends_leaves_no_descriptor_no_memory_and_no_watch() {
    let exe = std::env::current_exe().unwrap();
    let test = "ending::in_a_process_of_its_own";
    let output = std::process::Command::new(exe)
        .args(["--exact", test, "--test-threads=1"])
        .env("AGENTFS_ALONE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn in_a_process_of_its_own() {
    if std::env::var_os("AGENTFS_ALONE").is_none() {
        assert!(rings() < 100_000, "counted, and left to the other process");
        return;
    }
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = (fds(), rings(), mappings());
    for round in 0..20 {
        let session = SessionId(100 + round);
        fixture.service.open_session(session, fixture.branch.id());
        let kinds = [Api::Inotify, Api::KqueueXnu, Api::Native, Api::FsEvents];
        let readers = kinds.map(|api| fixture.open_for(session, api, Capacity::MIN));
        fixture.watch(&readers[0], 1, "/d", IN_CREATE);
        fixture.watch(&readers[1], 1, "/d", NOTE_WRITE);
        fixture.watch_trees(&readers[2], 1, &["/", "/d"], 0);
        fixture.watch_trees(&readers[3], 1, &["/d"], 0);
        assert_eq!(fixture.service.watches(), (2, 3));
        for number in 0..200 {
            fixture.create(&format!("/d/{round}-{number}"));
        }
        assert!(fixture.service.spilled_bytes() > 0);
        fixture.service.close_session(session);
        assert_eq!(fixture.service.watches(), (0, 0));
        assert_eq!(fixture.service.spilled_bytes(), 0);
        // The service's side is gone although the program still has its own.
        assert!(readers.iter().all(|reader| reader.queue.report().is_none()));
    }
    assert_eq!((fds(), rings(), mappings()), before);
    assert!(
        fixture.service.counts().published > 0,
        "what was counted stays"
    );
}

#[test]
fn a_consumer_that_lies_ends_its_session_and_no_other() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    let liar = SessionId(2);
    fixture.service.open_session(liar, fixture.branch.id());
    let opened = fixture
        .service
        .open_queue(liar, Api::Inotify, Capacity::MIN)
        .unwrap();
    let honest = fixture.open_sized(Api::Inotify, Capacity::MIN);
    fixture.watch_node(&opened.queue, 1, "/d", IN_CREATE, None);
    fixture.watch(&honest, 1, "/d", IN_CREATE);
    set_wake_position(&opened.ring, 1 << 40);
    fixture.create("/d/a");
    assert!(opened.queue.broken().is_some());
    assert_eq!(fixture.service.broken_sessions(), [liar]);
    assert!(fixture.service.broken_sessions().is_empty(), "each once");
    fixture.service.close_session(liar);
    fixture.create("/d/b");
    assert_eq!(
        masks(&fixture.read(&honest)),
        [(1, IN_CREATE), (1, IN_CREATE)]
    );
}

/// Writes the word by which a consumer asks to be woken (docs/ring-abi.md).
fn set_wake_position(ring: &OwnedFd, position: u64) {
    let written = rustix::io::pwrite(ring, &position.to_ne_bytes(), 65_664).unwrap();
    assert_eq!(written, 8);
}

#[test]
fn a_doorbell_that_is_renewed_rings_and_the_old_one_is_let_go() {
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    let reader = fixture.open(Api::KqueueXnu);
    fixture.watch(&reader, 1, "/d", NOTE_WRITE);
    let theirs = fixture
        .service
        .renew_doorbell(SESSION, reader.queue.id)
        .unwrap();
    let bell =
        agentfs_ring::doorbell::Waiter::from_fd(theirs, agentfs_ring::doorbell::BellKind::Pipe);
    assert!(bell.clear().unwrap(), "something may have been missed");
    assert_eq!(reader.arm(), ArmOutcome::MaySleep);
    fixture.create("/d/f");
    assert!(bell.clear().unwrap());
    assert!(!reader.doorbell.clear().unwrap());
}

#[test]
fn an_inotify_doorbell_is_a_read_that_a_real_instance_hears() {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let fixture = Fixture::new();
    fixture.mkdir("/d");
    let opened = fixture
        .service
        .open_queue(SESSION, Api::Inotify, Capacity::DEFAULT)
        .unwrap();
    fixture.watch_node(&opened.queue, 1, "/d", IN_CREATE, None);
    let instance = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    let path = format!("/proc/self/fd/{}", opened.doorbell.as_raw_fd());
    let hidden = add_watch(&instance, path, WatchFlags::ACCESS).unwrap();
    let consumer = agentfs_ring::Consumer::open(opened.ring).unwrap();
    let me = agentfs_ring::OwnerId::this_process();
    let arm = || consumer.claim(me, |_| true).unwrap().arm().unwrap();
    assert_eq!(arm(), ArmOutcome::MaySleep);
    fixture.create("/d/f");
    fixture.create("/d/g");
    let mut event = [0; 64];
    assert_eq!(rustix::io::read(&instance, &mut event).unwrap(), 16);
    assert_eq!(event[..4], hidden.to_ne_bytes());
}
