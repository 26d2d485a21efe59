//! Kills either side at any moment: the other one goes on, and nothing is left behind.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agentfs_client::{CallError, Client};
use agentfs_proto::message::{Hello, Status};
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{DaemonProcess, agentfs, private_directory};
use agentfs_testkit::files::{mkdir, rmdir, write};
use agentfs_testkit::random::Random;
use rustix::process::Signal;

use crate::subscriber::Subscriber;

const ROUNDS: u64 = 200;

/// Returns the names of AgentFS in shared memory. The tests compare with what was there before them,
/// because a benchmark may keep its files there. Left out are the pages of 24 letters that daemons of
/// earlier versions had, because one may run or have been killed on the same machine.
fn shared_memory() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/dev/shm").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // Benchmarks, which are none of the daemon's, work in directories there.
    names
        .filter(|name| name.contains("agentfs") && !name.starts_with("agentfs-bench-"))
        .collect()
}

/// Asserts that nothing that a daemon maps or has open has a name in shared memory, so that nothing
/// of it stays there however it is killed.
#[track_caller]
fn assert_nothing_named(daemon: &DaemonProcess) {
    let process = format!("/proc/{}", daemon.pid());
    let maps = std::fs::read_to_string(format!("{process}/maps")).unwrap();
    let mapped = maps
        .lines()
        .filter_map(|line| Some(line[line.find('/')?..].to_owned()));
    let open = std::fs::read_dir(format!("{process}/fd")).unwrap();
    // A descriptor may be closed meanwhile.
    let open = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let open = open.map(|path| path.to_string_lossy().into_owned());
    let is_named = |path: &String| path.starts_with("/dev/shm/") && !path.ends_with(" (deleted)");
    let named: Vec<String> = mapped.chain(open).filter(is_named).collect();
    assert!(named.is_empty(), "{named:?}");
}

/// Asserts that no daemon, running or killed, has given anything a name in shared memory.
#[track_caller]
fn assert_nothing_left(before: &BTreeSet<String>) {
    let now = shared_memory();
    let left: Vec<&String> = now.difference(before).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn watcher(daemon: &DaemonProcess) -> Child {
    agentfs(daemon.directory.path())
        .args(["watch", "/", "--ring", "4096", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until somebody has made `more` changes since now.
fn wait_for_changes(changes: &AtomicU64, more: u64) {
    let start = changes.load(Ordering::Relaxed);
    while changes.load(Ordering::Relaxed) < start + more {
        std::thread::yield_now();
    }
}

#[test]
fn programs_killed_at_any_moment_cost_the_daemon_and_the_others_nothing() {
    let daemon = DaemonProcess::start();
    let mut actor = daemon.client();
    let witness = Subscriber::new(daemon.client(), "/", 1 << 20);
    let mut asker = daemon.client();
    let before = daemon.descriptors();
    let shared_before = shared_memory();
    let (changes, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let made = std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let mut made = 0;
            while !is_over.load(Ordering::Relaxed) {
                mkdir(&mut actor, &format!("/d{made}")).unwrap();
                rmdir(&mut actor, &format!("/d{made}")).unwrap();
                made += 1;
                changes.store(made, Ordering::Relaxed);
            }
            mkdir(&mut actor, "/end").unwrap();
            made
        });
        let reading = scope.spawn(|| witness.until_created("/end"));
        let random = &mut Random::new(1);
        for _ in 0..ROUNDS {
            let mut child = watcher(&daemon);
            wait_for_changes(&changes, random.next_u64() % 64);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        let made = acting.join().unwrap();
        let heard = reading.join().unwrap();
        assert_eq!(heard.len() as u64, 2 * made + 1);
        assert!(heard.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        made
    });
    assert!(made > 0);
    while asker
        .call(Status { after: 0 }, soon())
        .unwrap()
        .sessions
        .len()
        > 3
    {}
    assert!(daemon.descriptors() <= before);
    let report = asker.call(Status { after: 0 }, soon()).unwrap();
    let value = |name: &str| {
        report
            .counters
            .iter()
            .find(|it| it.name == name)
            .unwrap()
            .value
    };
    assert_eq!((value("tree_watches"), value("spilled_bytes")), (1, 0));
    assert_nothing_left(&shared_before);
}

#[test]
fn a_daemon_killed_at_any_moment_ends_the_waiting_of_every_program() {
    let shared_before = shared_memory();
    let mut directory = private_directory();
    let random = &mut Random::new(2);
    for round in 0..ROUNDS {
        let daemon = DaemonProcess::start_in(directory, &[]);
        let (mut actor, subscriber) =
            (daemon.client(), Subscriber::new(daemon.client(), "/", 4096));
        let program = (round % 10 == 0).then(|| watcher(&daemon));
        let changes = AtomicU64::new(0);
        let kill_after = random.next_u64() % 200;
        directory = std::thread::scope(|scope| {
            let acting = scope.spawn(|| act_until_refused(&mut actor, &changes));
            let reading = scope.spawn(|| subscriber.until(|_| false));
            wait_for_changes(&changes, kill_after);
            assert_nothing_named(&daemon);
            let directory = daemon.kill();
            acting.join().unwrap();
            let heard = reading.join().unwrap();
            let in_order = heard.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq);
            assert!(in_order, "round {round}: {heard:?}");
            directory
        });
        if let Some(mut program) = program {
            assert!(!program.wait().unwrap().success());
        }
    }
    let mut daemon = DaemonProcess::start_in(directory, &[]);
    let (mut client, _) = Client::connect(&daemon.socket(), Hello::new("test"), soon()).unwrap();
    write(&mut client, "/after", b"all is well").unwrap();
    assert_nothing_left(&shared_before);
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    assert_nothing_left(&shared_before);
}

/// Makes changes until the daemon is gone.
fn act_until_refused(actor: &mut Client, changes: &AtomicU64) {
    for number in 0.. {
        match mkdir(actor, &format!("/d{number}")) {
            Ok(()) => changes.store(number + 1, Ordering::Relaxed),
            Err(CallError::Closed) => {
                // The count is raised, so that no thread waits for changes that do not come.
                changes.store(u64::MAX, Ordering::Relaxed);
                return;
            }
            Err(error) => panic!("{error}"),
        }
    }
}
