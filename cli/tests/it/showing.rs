//! Checks what `top` and `status --watches` show of a daemon.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use agentfs_client::{CallError, Client};
use agentfs_proto::message::{
    BranchToken, ByPath, Code, Hello, QueueKind, QueueOpen, WatchInfo, WatchList,
    WatchRegisterInotify, WatchRegisterTree,
};
use rustix::process::{Pid, Signal, kill_process};

use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{DaemonProcess, agentfs};

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
    // The next look at the daemon may have begun before.
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

fn open_queue(client: &mut Client, kind: QueueKind) -> u32 {
    let open = QueueOpen { kind, capacity: 0 };
    let opened = client.open_queue(open, soon()).unwrap();
    opened.opened.queue
}

fn watch(client: &mut Client, queue: u32, wd: u32, path: &str) -> u64 {
    let target = ByPath {
        path: path.into(),
        follow: true,
    };
    let request = WatchRegisterInotify {
        queue,
        wd,
        mask: 0x3C6,
        target: target.into(),
    };
    client.call(request, soon()).unwrap().node
}

/// Returns what `agentfs status --watches` shows, without the heading.
#[track_caller]
fn shown(daemon: &DaemonProcess) -> Vec<String> {
    let output = daemon.run(&["status", "--watches"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().skip_while(|line| !line.starts_with("WATCH "));
    let words = lines.skip(1).map(|line| line.split_whitespace());
    words.map(|it| it.collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_watch_is_shown_by_the_path_that_its_file_has_now() {
    let daemon = DaemonProcess::start();
    let ask = |words: &[&str]| {
        let output = daemon.run(&[&["fs"], words].concat());
        assert!(output.status.success(), "{output:?}");
    };
    let mut client = daemon.client();
    ask(&["mkdir", "/src"]);
    ask(&["touch", "/src/a"]);
    let queue = open_queue(&mut client, QueueKind::Inotify);
    watch(&mut client, queue, 1, "/src");
    watch(&mut client, queue, 2, "/src/a");
    assert_eq!(shown(&daemon), ["1.1.1 0x3c6 /src", "1.1.2 0x3c6 /src/a"]);
    ask(&["mv", "/src/a", "/src/b"]);
    ask(&["mv", "/src", "/lib"]);
    assert_eq!(shown(&daemon), ["1.1.1 0x3c6 /lib", "1.1.2 0x3c6 /lib/b"]);
    ask(&["ln", "/lib/b", "/c"]);
    ask(&["rm", "/lib/b"]);
    assert_eq!(shown(&daemon), ["1.1.1 0x3c6 /lib", "1.1.2 0x3c6 /c"]);
    ask(&["rm", "/c"]);
    assert_eq!(shown(&daemon), ["1.1.1 0x3c6 /lib"]);
}

#[test]
fn a_tree_is_shown_as_it_was_asked_for() {
    let daemon = DaemonProcess::start();
    let mut client = daemon.client();
    let queue = open_queue(&mut client, QueueKind::Native);
    for (number, path) in (1..).zip(["/", "/no/such/thing"]) {
        let request = WatchRegisterTree {
            queue,
            watch: number,
            path: path.into(),
            activity: false,
        };
        client.call(request, soon()).unwrap();
    }
    let expected = ["1.1.1 all below /", "1.1.2 all below /no/such/thing"];
    assert_eq!(shown(&daemon), expected);
}

/// Returns every page of what a queue of this client's session watches.
fn pages(client: &mut Client, session: u64, queue: u32) -> Result<Vec<Vec<WatchInfo>>, CallError> {
    let (mut pages, mut after) = (Vec::new(), 0);
    loop {
        let request = WatchList {
            session,
            queue,
            after,
        };
        let page = client.call(request, soon())?;
        if page.watches.is_empty() {
            return Ok(pages);
        }
        after = page.next;
        pages.push(page.watches);
    }
}

#[test]
fn many_watches_with_long_paths_are_shown_page_by_page() {
    let daemon = DaemonProcess::start();
    let mut client = daemon.client();
    let name = "n".repeat(250);
    let mut path = String::new();
    for _ in 0..15 {
        path = format!("{path}/{name}");
        assert!(daemon.run(&["fs", "mkdir", &path]).status.success());
    }
    let queue = open_queue(&mut client, QueueKind::Inotify);
    let node = watch(&mut client, queue, 1, &path);
    for wd in 2..=600 {
        let on = if wd % 3 == 0 { &*path } else { "/" };
        watch(&mut client, queue, wd, on);
    }
    let pages = pages(&mut client, 1, queue).unwrap();
    assert!(pages.len() > 2, "{} pages", pages.len());
    let watches: Vec<WatchInfo> = pages.concat();
    let numbers: Vec<u64> = watches.iter().map(|it| it.watch).collect();
    assert_eq!(numbers, (1..=600).collect::<Vec<u64>>());
    let long = watches.iter().filter(|it| it.node == node);
    assert_eq!(long.clone().count(), 201);
    for it in long {
        assert_eq!(it.paths, [path.as_str().into()]);
    }
}

#[test]
fn a_bound_session_is_shown_its_own_watches_only() {
    let daemon = DaemonProcess::start();
    let mut owner = daemon.client();
    let queue = open_queue(&mut owner, QueueKind::Inotify);
    watch(&mut owner, queue, 1, "/");
    let request = BranchToken {
        name: "main".to_owned(),
    };
    let token = owner.call(request, soon()).unwrap().token;
    let hello = Hello {
        token: Some(token),
        ..Hello::new("bound")
    };
    let (mut bound, welcome) = Client::connect(&daemon.socket(), hello, soon()).unwrap();
    let refused = pages(&mut bound, 1, queue).unwrap_err();
    let CallError::Refused(refused) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(refused.code, Code::NOT_FOUND);
    let own = open_queue(&mut bound, QueueKind::Inotify);
    watch(&mut bound, own, 7, "/");
    let watches = pages(&mut bound, welcome.session, own).unwrap().concat();
    assert_eq!(watches.len(), 1);
}
