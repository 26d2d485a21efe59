//! Tests what a program reads.

use agentfs_testkit::scripted::{Scripted, event};
use agentfs_testkit::shim::{Script, scratch};

const NONBLOCK: i32 = 0o4000;
const ALL: u32 = 0xfff;

struct Scene {
    tree: tempfile::TempDir,
    daemon: Scripted,
    script: Script,
    fd: i32,
}

/// Starts a program with an instance that watches a directory as wd 1.
fn scene(flags: i32) -> Scene {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(flags);
    assert_eq!(script.add(fd, ALL, tree.path()), 1);
    Scene {
        tree,
        daemon,
        script,
        fd,
    }
}

#[test]
fn an_injected_event_wakes_a_blocked_read() {
    let mut scene = scene(0);
    let fd = scene.fd;
    scene.script.begin(format!("read {fd} 4096"));
    scene.daemon.inject(1, &[event(1, 0x100, "new.txt")]);
    assert_eq!(scene.script.answer(), "1:100:0:new.txt");
}

#[test]
fn poll_says_readable_and_every_way_to_read_gets_the_event() {
    let mut scene = scene(NONBLOCK);
    let fd = scene.fd;
    for way in ["read", "readv", "sysread", "dlread", "chkread"] {
        assert_eq!(scene.script.ask(format!("poll {fd} 0")), "0");
        assert_eq!(scene.script.ask(format!("{way} {fd} 4096")), "EAGAIN");
        scene.daemon.inject(1, &[event(1, 2, "file")]);
        assert_eq!(scene.script.ask(format!("poll {fd} 10000")), "1");
        assert_eq!(
            scene.script.ask(format!("{way} {fd} 4096")),
            "1:2:0:file",
            "{way}"
        );
        assert_eq!(scene.script.ask(format!("{way} {fd} 4096")), "EAGAIN");
    }
}

#[test]
fn kernel_and_injected_events_come_in_the_order_of_the_bell() {
    let mut scene = scene(NONBLOCK);
    let fd = scene.fd;
    std::fs::create_dir(scene.tree.path().join("a")).unwrap();
    scene
        .daemon
        .inject(1, &[event(1, 0x100, "b"), event(1, 2, "b")]);
    std::fs::create_dir(scene.tree.path().join("c")).unwrap();
    assert_eq!(
        scene.script.ask(format!("read {fd} 4096")),
        "1:40000100:0:a 1:100:0:b 1:2:0:b 1:40000100:0:c"
    );
    assert_eq!(scene.script.ask(format!("read {fd} 4096")), "EAGAIN");
    assert_eq!(scene.script.ask(format!("poll {fd} 0")), "0");
}

#[test]
fn a_buffer_takes_whole_events_and_the_rest_stays_readable() {
    let mut scene = scene(NONBLOCK);
    let fd = scene.fd;
    let names = ["one", "two-is-longer-than-that", "three"];
    let events: Vec<_> = names.iter().map(|name| event(1, 2, *name)).collect();
    scene.daemon.inject(1, &events);
    // The buffer is too small for the first event, which stays.
    assert_eq!(scene.script.ask(format!("read {fd} 8")), "EINVAL");
    assert_eq!(scene.script.ask(format!("read {fd} 16")), "EINVAL");
    assert_eq!(scene.script.ask(format!("read {fd} 31")), "EINVAL");
    assert_eq!(scene.script.ask(format!("poll {fd} 0")), "1");
    assert_eq!(scene.script.ask(format!("read {fd} 40")), "1:2:0:one");
    assert_eq!(scene.script.ask(format!("poll {fd} 0")), "1");
    assert_eq!(scene.script.ask(format!("read {fd} 47")), "EINVAL");
    assert_eq!(
        scene.script.ask(format!("read {fd} 80")),
        "1:2:0:two-is-longer-than-that 1:2:0:three"
    );
    assert_eq!(scene.script.ask(format!("poll {fd} 0")), "0");
    assert_eq!(scene.script.ask(format!("read {fd} 8")), "EAGAIN");
}

#[test]
fn fionread_counts_both_and_a_buffer_of_that_size_takes_all() {
    let mut scene = scene(NONBLOCK);
    let fd = scene.fd;
    assert_eq!(scene.script.ask(format!("fionread {fd}")), "0");
    std::fs::create_dir(scene.tree.path().join("a")).unwrap();
    assert_eq!(scene.script.ask(format!("fionread {fd}")), "32");
    scene
        .daemon
        .inject(1, &[event(1, 2, ""), event(1, 0x100, "sixteen-letters-")]);
    // These are 32 bytes of the kernel, and 16 and 48 of the ring.
    assert_eq!(scene.script.ask(format!("fionread {fd}")), "96");
    assert_eq!(
        scene.script.ask(format!("read {fd} 96")),
        "1:40000100:0:a 1:2:0: 1:100:0:sixteen-letters-"
    );
    assert_eq!(scene.script.ask(format!("fionread {fd}")), "0");
}

#[test]
fn o_nonblock_may_be_set_late() {
    let mut scene = scene(0);
    let fd = scene.fd;
    assert_eq!(scene.script.ask(format!("nonblock {fd}")), "0");
    assert_eq!(scene.script.ask(format!("read {fd} 4096")), "EAGAIN");
    scene.daemon.inject(1, &[event(1, 2, "x")]);
    assert_eq!(scene.script.ask(format!("read {fd} 4096")), "1:2:0:x");
}

#[test]
fn a_sleeping_program_is_rung_once_for_a_burst() {
    let mut scene = scene(0);
    let fd = scene.fd;
    scene.script.begin(format!("read {fd} 1048576"));
    let burst: Vec<_> = (0..100).map(|n| event(1, 2, format!("f{n}"))).collect();
    scene.daemon.inject(1, &burst);
    assert_eq!(scene.script.answer().split(' ').count(), 100);
    scene.daemon.inject(1, &burst);
    scene.script.begin(format!("read {fd} 1048576"));
    assert_eq!(scene.script.answer().split(' ').count(), 100);
    assert_eq!(scene.daemon.queue(1, |queue| queue.rings), 2);
}

#[test]
fn a_full_ring_asks_for_more_when_it_has_room() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    daemon.set_capacity(4096);
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    script.add(fd, ALL, tree.path());
    let written = daemon.queue(1, |queue| {
        let count = (0..).take_while(|n| queue.write(&event(1, 2, format!("f{n}"))));
        let count = count.count();
        queue.publish();
        let _ = queue.producer.request_refill(100).unwrap();
        count
    });
    assert!(written > 20, "{written} records in a ring of 4 KiB");
    assert!(!daemon.queue(1, |queue| queue.refill.clear().unwrap()));
    let answer = script.ask(format!("read {fd} 65536"));
    assert_eq!(answer.split(' ').count(), written);
    assert!(daemon.queue(1, |queue| queue.refill.clear().unwrap()));
}

#[test]
fn an_overflow_record_is_an_overflow_event() {
    use agentfs_proto::record::{AgentFsEvent, Kind};
    let mut scene = scene(NONBLOCK);
    let fd = scene.fd;
    scene.daemon.queue(1, |queue| {
        let record = AgentFsEvent {
            kind: Kind::OVERFLOW,
            ..AgentFsEvent::default()
        };
        assert!(queue.write_record(&record, b""));
        queue.publish();
    });
    assert_eq!(scene.script.ask(format!("read {fd} 4096")), "-1:4000:0:");
}

#[test]
fn a_bell_that_the_kernel_dropped_in_an_overflow_is_made_up_for() {
    let mut scene = scene(NONBLOCK);
    let fd = scene.fd;
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let file = scene.tree.path().join("f");
    std::fs::write(&file, "").unwrap();
    for _ in 0..limit / 2 + 10 {
        drop(std::fs::File::open(&file).unwrap());
    }
    scene.daemon.inject(1, &[event(1, 2, "late")]);
    let mut is_heard = false;
    loop {
        let answer = scene.script.ask(format!("read {fd} 65536"));
        if answer == "EAGAIN" {
            break;
        }
        is_heard |= answer.contains("1:2:0:late");
    }
    assert!(is_heard, "the injected event comes behind the overflow");
}

#[test]
fn signals_interrupt_a_blocked_read_as_ever() {
    use std::process::Command;
    let mut scene = scene(0);
    let fd = scene.fd;
    scene.script.begin(format!("read {fd} 4096"));
    let id = scene.script.id();
    // The test waits until the program sleeps there.
    let stat = format!("/proc/{id}/syscall");
    let reading = format!("{} 0x{fd:x} ", libc::SYS_read);
    while !std::fs::read_to_string(&stat)
        .unwrap()
        .starts_with(&reading)
    {
        std::thread::yield_now();
    }
    let kill = Command::new("kill")
        .args(["-USR1", &id.to_string()])
        .status();
    assert!(kill.unwrap().success());
    assert_eq!(scene.script.answer(), "EINTR");
    scene.daemon.inject(1, &[event(1, 2, "x")]);
    assert_eq!(scene.script.ask(format!("read {fd} 4096")), "1:2:0:x");
}
