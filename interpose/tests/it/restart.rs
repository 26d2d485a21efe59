//! Tests that the daemon ends and another one starts.

use agentfs_proto::registration::Registration;
use agentfs_testkit::scripted::{Scripted, event};
use agentfs_testkit::shim::{Script, scratch};

const NONBLOCK: i32 = 0o4000;

/// Returns the last registration of every wd.
fn watched(daemon: &Scripted) -> Vec<(u32, u32)> {
    let mut found: Vec<_> = daemon
        .registrations()
        .into_iter()
        .filter_map(|it| match it {
            Registration::Set { wd, mask, .. } => Some((wd, mask)),
            Registration::Remove { .. }
            | Registration::Close { .. }
            | Registration::Resume { .. } => None,
        })
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn a_program_asleep_in_read_is_told_of_a_new_daemon_and_goes_on() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(0);
    let other = tree.path().join("d");
    std::fs::create_dir(&other).unwrap();
    script.add(fd, 0xfff, tree.path());
    script.add(fd, 0x2, &other);
    script.begin(format!("read {fd} 4096"));
    let directory = daemon.directory();
    daemon.die();
    let daemon = Scripted::start_in(directory, tree.path());
    assert_eq!(script.answer(), "-1:4000:0:");
    assert_eq!(watched(&daemon), [(1, 0xfff), (2, 0x2)]);
    script.begin(format!("read {fd} 4096"));
    daemon.inject(1, &[event(2, 2, "x")]);
    assert_eq!(script.answer(), "2:2:0:x");
    // The event comes once.
    assert_eq!(script.ask(format!("nonblock {fd}")), "0");
    assert_eq!(script.ask(format!("read {fd} 4096")), "EAGAIN");
}

#[test]
fn without_a_daemon_the_kernels_events_go_on() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    script.add(fd, 0xfff, tree.path());
    daemon.inject(1, &[event(1, 2, "last")]);
    let directory = daemon.directory();
    daemon.die();
    // Events that were published are still read.
    assert_eq!(script.ask(format!("read {fd} 4096")), "1:2:0:last");
    std::fs::create_dir(tree.path().join("a")).unwrap();
    assert_eq!(script.ask(format!("read {fd} 4096")), "1:40000100:0:a");
    // Watches made meanwhile are registered with the next daemon.
    let other = tree.path().join("a");
    assert_eq!(script.add(fd, 0x2, &other), 2);
    let fresh = script.init(NONBLOCK);
    assert_eq!(script.add(fresh, 0x2, &other), 1);
    drop(std::fs::File::open(&other).unwrap());
    let daemon = Scripted::start_in(directory, tree.path());
    assert_eq!(script.ask(format!("poll {fd} 10000")), "1");
    let answer = script.ask(format!("read {fd} 4096"));
    assert!(answer.ends_with("-1:4000:0:"), "{answer}");
    assert_eq!(watched(&daemon), [(1, 0xfff), (2, 0x2)]);
    daemon.inject(1, &[event(2, 2, "x")]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "2:2:0:x");
}

#[test]
fn every_queue_of_a_program_hears_of_a_restart() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fds: Vec<i32> = (0..20).map(|_| script.init(NONBLOCK)).collect();
    for fd in &fds {
        script.add(*fd, 0x2, tree.path());
    }
    let directory = daemon.directory();
    daemon.die();
    let daemon = Scripted::start_in(directory, tree.path());
    for (queue, fd) in (1..).zip(&fds) {
        assert_eq!(script.ask(format!("poll {fd} 10000")), "1");
        assert_eq!(script.ask(format!("read {fd} 4096")), "-1:4000:0:");
        daemon.inject(queue, &[event(1, 2, "x")]);
        assert_eq!(script.ask(format!("read {fd} 4096")), "1:2:0:x");
        assert_eq!(script.ask(format!("read {fd} 4096")), "EAGAIN");
    }
    assert_eq!(daemon.queues(), fds.len());
}

#[test]
fn a_daemon_that_does_not_answer_stops_no_program() {
    let tree = scratch();
    let directory = tempfile::TempDir::new().unwrap();
    let socket = directory.path().join("control.sock");
    let _deaf = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut script = Script::start(&socket);
    let fd = script.init(NONBLOCK);
    assert_eq!(script.add(fd, 0xfff, tree.path()), 1);
    std::fs::create_dir(tree.path().join("a")).unwrap();
    assert_eq!(script.ask(format!("read {fd} 4096")), "1:40000100:0:a");
    // The daemon is not asked for every watch: this has to be answered in less than half a second
    // each.
    directories(tree.path(), 200);
    let all = format!("addall {fd} 100 200 {}", tree.path().display());
    assert_eq!(script.ask(all), "200");
}

/// Makes directories whose names are numbers.
fn directories(at: &std::path::Path, count: u32) {
    for number in 0..count {
        std::fs::create_dir(at.join(number.to_string())).unwrap();
    }
}

#[test]
fn a_daemon_that_falls_silent_costs_a_program_one_wait_and_no_queue() {
    let tree = scratch();
    let daemon = Scripted::start(tree.path());
    let mut script = Script::start(&daemon.socket());
    let fd = script.init(NONBLOCK);
    assert_eq!(script.add(fd, 0x2, tree.path()), 1);
    // These are more than the request channel holds while the daemon does not look.
    directories(tree.path(), 5000);
    daemon.fall_silent();
    let all = format!("addall {fd} 100 5000 {}", tree.path().display());
    assert_eq!(script.ask(all), "5000");
    // The daemon was only slow: what it serves goes on.
    daemon.inject(1, &[event(1, 2, "x")]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "1:2:0:x");
    daemon.inject(1, &[event(2, 2, "y")]);
    assert_eq!(script.ask(format!("read {fd} 4096")), "2:2:0:y");
    std::fs::create_dir(tree.path().join("0/a")).unwrap();
    assert_eq!(script.ask(format!("read {fd} 4096")), "2:40000100:0:a");
}
