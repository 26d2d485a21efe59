//! Many watches, queues and programs, and programs that are killed in whatever they do.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agentfs_proto::client::Client;
use agentfs_proto::message::{FsChmod, FsMkdir, Status};
use tempfile::TempDir;

use crate::mounted::can_mount;
use crate::shim::Script;
use crate::support::{DaemonProcess, Random, private_directory, soon};

const NONBLOCK: i32 = 0o4000;
const IN_ATTRIB: u32 = 0x4;

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
    // Its descriptors are counted, and to look for programs without the library takes some.
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

/// A change that a watch of the object hears once.
fn touch(client: &mut Client, path: &str) {
    let path = path.into();
    client
        .fs("", FsChmod { path, mode: 0o755 }, soon())
        .unwrap();
}

/// A number of the daemon's status.
fn counter(client: &mut Client, name: &str) -> u64 {
    let report = client.call(Status { after: 0 }, soon()).unwrap();
    let counter = report.counters.iter().find(|it| it.name == name);
    counter.unwrap().value
}

/// Waits until the daemon has no session but this one and no watch.
fn wait_until_alone(client: &mut Client) {
    let is_alone = |client: &mut Client| {
        let report = client.call(Status { after: 0 }, soon()).unwrap();
        report.sessions.len() == 1
    };
    while !is_alone(client) {}
    assert_eq!(counter(client, "node_watches"), 0);
}

/// The page of counters, and what else the daemon has open, is there from the first session on.
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
    // A user has 128 (fs.inotify.max_user_instances).
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

/// Ends what waits for it, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes changes until it is told to stop, and counts them.
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
        let random = &mut Random(3);
        for round in 0..60 {
            let script = if round % 2 == 0 {
                inotify_churn(&socket, &path)
            } else {
                kqueue_churn(&socket, &path)
            };
            let until = made.load(Ordering::Relaxed) + random.next() % 100;
            while made.load(Ordering::Relaxed) < until {
                std::thread::yield_now();
            }
            // Killed.
            drop(script);
        }
        drop(over);
    });
    drop(actor);
    assert_eq!(descriptors(&mut stage), before);
    // Whoever comes next is served.
    let mut script = Script::start(&socket);
    let fd = script.init(0);
    script.add(fd, IN_ATTRIB, &path);
    script.begin(format!("read {fd} 4096"));
    touch(&mut stage.client, "/d");
    assert_eq!(script.answer(), "1:40000004:0:");
    script.end();
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
