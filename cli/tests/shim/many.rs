//! Tests many watches, queues and programs, and programs that are killed in whatever they do.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agentfs_client::Client;
use agentfs_proto::message::{FsChmod, FsMkdir, FsMknod, FsRmdir, Status};
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{DaemonProcess, private_directory};
use agentfs_testkit::environment::can_mount;
use agentfs_testkit::random::Random;
use agentfs_testkit::shim::Script;
use tempfile::TempDir;

use crate::kqueue::{sleep, until_asleep};

const NONBLOCK: i32 = 0o4000;
const IN_ATTRIB: u32 = 0x4;
const IN_ALL_EVENTS: u32 = 0xfff;

/// A daemon with a mount, and a session for changes from outside.
struct Stage {
    daemon: DaemonProcess,
    point: TempDir,
    client: Client,
}

fn stage() -> Option<Stage> {
    if !can_mount() {
        return None;
    }
    // The daemon's descriptors are counted, and a look for programs without the library opens some.
    let daemon = DaemonProcess::start_in(private_directory(), &["--echo", "never"]);
    let point = TempDir::new().unwrap();
    let output = daemon.run(&["mount", "main", point.path().to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let client = daemon.client();
    Some(Stage {
        daemon,
        point,
        client,
    })
}

fn mkdir(client: &mut Client, path: &str) {
    let path = path.into();
    client
        .fs("", FsMkdir { path, mode: 0o755 }, soon())
        .unwrap();
}

/// Makes a change that a watch of the object hears once.
fn touch(client: &mut Client, path: &str) {
    let path = path.into();
    client
        .fs("", FsChmod { path, mode: 0o755 }, soon())
        .unwrap();
}

/// Returns a number of the daemon's status.
fn counter(client: &mut Client, name: &str) -> u64 {
    let report = client.call(Status { after: 0 }, soon()).unwrap();
    let counter = report.counters.iter().find(|it| it.name == name);
    counter.unwrap().value
}

/// Waits until the daemon has no session but this one, and no watch.
fn wait_until_alone(client: &mut Client) {
    let is_alone = |client: &mut Client| {
        let report = client.call(Status { after: 0 }, soon()).unwrap();
        report.sessions.len() == 1
    };
    while !is_alone(client) {}
    assert_eq!(counter(client, "node_watches"), 0);
}

/// Returns how many descriptors the daemon has open once it has no session but this one.
fn descriptors(stage: &mut Stage) -> usize {
    wait_until_alone(&mut stage.client);
    stage.daemon.descriptors()
}

#[test]
fn ten_thousand_watches_hear_one_change_each_once() {
    let Some(mut stage) = stage() else {
        return;
    };
    let count = 10_000;
    for number in 0..count {
        mkdir(&mut stage.client, &format!("/{number}"));
    }
    let mut script = Script::start(&stage.daemon.socket());
    let fd = script.init(0);
    let path = stage.point.path().display();
    let added = script.number(format!("addall {fd} {IN_ATTRIB:x} {count} {path}"));
    assert_eq!(added, count);
    script.begin(format!("collect {fd} {count}"));
    for number in 0..count {
        touch(&mut stage.client, &format!("/{number}"));
    }
    assert_eq!(script.answer(), format!("{count} 0"));
    assert_eq!(script.ask(format!("nonblock {fd}")), "0");
    assert_eq!(script.ask(format!("read {fd} 4096")), "EAGAIN");
    script.end();
    wait_until_alone(&mut stage.client);
}

#[test]
fn ten_thousand_knotes_hear_one_change_each_once() {
    let Some(mut stage) = stage() else {
        return;
    };
    // Each file takes a descriptor of the program.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let count = most.map_or(10_000, |it| (it.saturating_sub(1000)).min(10_000));
    for number in 0..count {
        let file = FsMknod {
            path: format!("/{number}").as_str().into(),
            mode: 0o100_644,
            rdev: 0,
        };
        stage.client.fs("", file, soon()).unwrap();
    }
    let mut script = Script::start_kqueue(Some(&stage.daemon.socket()));
    let kq = script.number("kqueue");
    let path = stage.point.path().display();
    let watched = script.ask(format!("watchall {kq} {count} {path}"));
    assert_eq!(watched, count.to_string());
    assert_eq!(counter(&mut stage.client, "node_watches"), count);
    script.begin(format!("collect {kq} {count}"));
    for number in 0..count {
        touch(&mut stage.client, &format!("/{number}"));
    }
    assert_eq!(script.answer(), format!("{count} 0"));
    assert_eq!(script.ask(format!("call {kq} 8 0")), "nothing");
    script.end();
    wait_until_alone(&mut stage.client);
}

#[test]
fn two_hundred_kqueues_of_one_process_hear_a_change_once_each() {
    let Some(mut stage) = stage() else {
        return;
    };
    assert!(stage.daemon.run(&["fs", "touch", "/f"]).status.success());
    let before = descriptors(&mut stage);
    let mut script = Script::start_kqueue(Some(&stage.daemon.socket()));
    let fd = script.number(format!("open {}", stage.point.path().join("f").display()));
    assert_eq!(script.ask(format!("many 200 {fd}")), "200");
    for _ in 0..3 {
        touch(&mut stage.client, "/f");
        assert_eq!(script.ask("hear 200"), "200");
        assert_eq!(script.ask("hear 200"), "0");
    }
    assert_eq!(counter(&mut stage.client, "node_watches"), 200);
    script.end();
    assert_eq!(descriptors(&mut stage), before);
}

#[test]
fn fifty_inotify_instances_of_one_process_hear_a_change_once_each() {
    let Some(mut stage) = stage() else {
        return;
    };
    mkdir(&mut stage.client, "/d");
    let before = descriptors(&mut stage);
    let mut script = Script::start(&stage.daemon.socket());
    let path = stage.point.path().join("d");
    // A user may have 128 instances (fs.inotify.max_user_instances).
    let many = format!("many 50 {IN_ATTRIB:x} {}", path.display());
    assert_eq!(script.ask(many), "50");
    for _ in 0..3 {
        touch(&mut stage.client, "/d");
        assert_eq!(script.ask("hear 50"), "50");
        assert_eq!(script.ask("hear 50"), "0");
    }
    script.end();
    assert_eq!(descriptors(&mut stage), before);
}

/// Ends the threads that wait for the flag, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes changes until `is_over` is set, and counts them.
fn act(client: &mut Client, made: &AtomicU64, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        touch(client, "/d");
        made.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_thousand_short_lived_forked_watchers_hear_something_and_leave_nothing() {
    let Some(mut stage) = stage() else {
        return;
    };
    mkdir(&mut stage.client, "/d");
    let mut actor = stage.daemon.client();
    let (made, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut script = Script::start(&stage.daemon.socket());
    std::thread::scope(|scope| {
        scope.spawn(|| act(&mut actor, &made, &is_over));
        let over = Over(&is_over);
        // The parent has a session, too, which its children leave alone.
        let fd = script.init(NONBLOCK);
        let path = stage.point.path().join("d");
        script.add(fd, IN_ATTRIB, &path);
        let heard = script.ask(format!("shortlives 1000 {}", path.display()));
        drop(over);
        assert_eq!(heard, "1000");
        let answer = script.ask(format!("read {fd} 4096"));
        assert!(answer.starts_with("1:40000004:0:"), "{answer}");
    });
    drop(actor);
    script.end();
    wait_until_alone(&mut stage.client);
}

#[test]
fn programs_killed_in_whatever_they_do_leave_nothing_behind() {
    let Some(mut stage) = stage() else {
        return;
    };
    mkdir(&mut stage.client, "/d");
    let path = stage.point.path().join("d");
    let before = descriptors(&mut stage);
    let mut actor = stage.daemon.client();
    let (made, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let socket = stage.daemon.socket();
    std::thread::scope(|scope| {
        scope.spawn(|| act(&mut actor, &made, &is_over));
        let over = Over(&is_over);
        let random = &mut Random::new(3);
        for round in 0..60 {
            let script = if round % 2 == 0 {
                inotify_churn(&socket, &path)
            } else {
                kqueue_churn(&socket, &path)
            };
            let until = made.load(Ordering::Relaxed) + random.next_u64() % 100;
            while made.load(Ordering::Relaxed) < until {
                std::thread::yield_now();
            }
            // The process was killed.
            drop(script);
        }
        drop(over);
    });
    drop(actor);
    assert_eq!(descriptors(&mut stage), before);
    // The daemon serves whoever comes next.
    let mut script = Script::start(&socket);
    let fd = script.init(0);
    script.add(fd, IN_ATTRIB, &path);
    script.begin(format!("read {fd} 4096"));
    touch(&mut stage.client, "/d");
    assert_eq!(script.answer(), "1:40000004:0:");
    script.end();
}

/// A function that starts a program and brings it into a state.
type Reach = fn(&mut Stage) -> Script;

const STATES: [(&str, Reach); 8] = [
    ("watching", |stage| watching(stage).0),
    ("asleep in read()", |stage| asleep_in_read(stage).0),
    ("with unread events", |stage| {
        let (script, _) = watching(stage);
        touch(&mut stage.client, "/d");
        script
    }),
    ("with more unread than its ring holds", overwhelmed),
    ("stopped in read()", |stage| {
        let (script, _) = asleep_in_read(stage);
        stop(&script);
        touch(&mut stage.client, "/d");
        script
    }),
    ("with a child that shares its instance and reads", |stage| {
        let (mut script, fd) = watching(stage);
        assert_eq!(script.ask("fork"), "0");
        touch(&mut stage.client, "/d");
        let event = script.ask(format!("read {fd} 4096"));
        assert_eq!(event, "1:40000004:0:");
        script
    }),
    ("asleep in kevent()", |stage| {
        let (mut script, kq) = watching_in_kqueue(stage);
        sleep(&mut script, kq, 8);
        script
    }),
    ("stopped with posted events", |stage| {
        let (script, _) = watching_in_kqueue(stage);
        stop(&script);
        touch(&mut stage.client, "/d");
        script
    }),
];

fn watching(stage: &Stage) -> (Script, i32) {
    let mut script = Script::start(&stage.daemon.socket());
    let fd = script.init(0);
    script.add(fd, IN_ALL_EVENTS, &stage.point.path().join("d"));
    (script, fd)
}

fn asleep_in_read(stage: &Stage) -> (Script, i32) {
    let (mut script, fd) = watching(stage);
    script.begin(format!("read {fd} 4096"));
    let read = nix::libc::SYS_read.to_string();
    let number = format!("{fd:#x}");
    until_asleep(&script, |call, first| call == read && first == number);
    (script, fd)
}

fn watching_in_kqueue(stage: &Stage) -> (Script, i32) {
    let mut script = Script::start_kqueue(Some(&stage.daemon.socket()));
    let kq = script.number("kqueue");
    let path = stage.point.path().join("d");
    let fd = script.number(format!("open {}", path.display()));
    script.number(format!("change {fd:x} -4 21 7f"));
    assert_eq!(script.ask(format!("call {kq} 0")), "nothing");
    (script, kq)
}

fn overwhelmed(stage: &mut Stage) -> Script {
    let (script, _) = watching(stage);
    let name = "n".repeat(200);
    for number in 0..500 {
        mkdir(&mut stage.client, &format!("/d/{name}{number}"));
    }
    assert!(counter(&mut stage.client, "spilled_bytes") > 0);
    for number in 0..500 {
        let path = format!("/d/{name}{number}").as_str().into();
        stage.client.fs("", FsRmdir { path }, soon()).unwrap();
    }
    script
}

fn stop(script: &Script) {
    let pid = rustix::process::Pid::from_raw(script.id()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
}

#[test]
fn a_program_killed_in_any_state_leaves_nothing_behind() {
    let Some(mut stage) = stage() else {
        return;
    };
    mkdir(&mut stage.client, "/d");
    let before = descriptors(&mut stage);
    for (state, reach) in STATES {
        let script = reach(&mut stage);
        assert!(counter(&mut stage.client, "node_watches") > 0, "{state}");
        // The process was killed.
        drop(script);
        assert_eq!(descriptors(&mut stage), before, "{state}");
        assert_eq!(counter(&mut stage.client, "spilled_bytes"), 0, "{state}");
    }
}

fn inotify_churn(socket: &Path, path: &Path) -> Script {
    let mut script = Script::start(socket);
    assert_eq!(script.ask(format!("churn {}", path.display())), "0");
    script
}

fn kqueue_churn(socket: &Path, path: &Path) -> Script {
    let mut script = Script::start_kqueue(Some(socket));
    let fd = script.number(format!("open {}", path.display()));
    assert_eq!(script.ask(format!("churn {fd}")), "0");
    script
}
