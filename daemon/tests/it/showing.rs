//! What a daemon does, for people and for programs.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use agentfs_proto::message::{QueueKind, QueueOpen};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{DaemonProcess, agentfs, soon};

#[test]
fn top_shows_a_session_until_it_is_told_to_end() {
    let daemon = DaemonProcess::start();
    let mut top = agentfs(daemon.directory.path())
        .args(["top", "--interval", "0.01", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
    let mut look = || -> serde_json::Value {
        let line = lines.next().unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    };
    let queues = |report: &serde_json::Value| -> usize {
        let sessions = report["sessions"].as_array().unwrap();
        let queues = sessions.iter().map(|it| it["queues"].as_array());
        queues.map(|it| it.map_or(0, Vec::len)).sum()
    };
    assert_eq!(queues(&look()), 0);
    let mut client = daemon.client();
    let open = QueueOpen {
        kind: QueueKind::Inotify,
        capacity: 0,
    };
    let _queue = client.open_queue(open, soon()).unwrap();
    // The next look may have begun before.
    let shown = (0..100).any(|_| queues(&look()) == 1);
    assert!(shown);
    kill_process(Pid::from_child(&top), Signal::INT).unwrap();
    assert!(top.wait().unwrap().success());
}

#[test]
fn top_ends_after_as_many_looks_as_asked_for() {
    let daemon = DaemonProcess::start();
    let output = daemon.run(&["top", "--count", "3", "--interval", "0.01", "--json"]);
    assert!(output.status.success());
    assert_eq!(output.stdout.split(|it| *it == b'\n').count(), 4);
}
