//! Checks that changes by one process are heard by others.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use agentfs_client::{CallError, Client};
use agentfs_proto::message::{
    BranchToken, ByPath, Code, EventsSubscribe, EventsUnsubscribe, FsStat, Hello, QueueClose,
    QueueKind, QueueOpen, Shutdown, Status, UpdateDoorbellIdent, WatchBatch, WatchDoorbell,
    WatchOutcome, WatchRegisterFSEvents, WatchRegisterInotify, WatchRegisterKqueue,
    WatchRegisterTree, WatchUnregister,
};
use agentfs_proto::record::Kind;
use rustix::process::{Pid, Signal, kill_process};

use crate::subscriber::{Subscriber, lines};
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{DaemonProcess, agentfs};
use agentfs_testkit::files::{mkdir, rename, rmdir, unlink, write};

#[test]
fn a_subscriber_hears_another_process_in_exact_order() {
    let daemon = DaemonProcess::start();
    let subscriber = Subscriber::new(daemon.client(), "/", 0);
    let mut actor = daemon.client();
    let mut expected = Vec::new();
    for round in 0..200 {
        let (directory, file) = (format!("/d{round}"), format!("/d{round}/f"));
        mkdir(&mut actor, &directory).unwrap();
        write(&mut actor, &file, b"text").unwrap();
        rename(&mut actor, &file, "/moved").unwrap();
        unlink(&mut actor, "/moved").unwrap();
        rmdir(&mut actor, &directory).unwrap();
        expected.extend([
            format!("created {directory}"),
            format!("created {file}"),
            format!("modified {file}"),
            format!("renamed {file} -> /moved"),
            "removed /moved".to_owned(),
            format!("removed {directory}"),
        ]);
    }
    mkdir(&mut actor, "/end").unwrap();
    expected.push("created /end".to_owned());
    let heard = subscriber.until_created("/end");
    assert_eq!(lines(&heard), expected);
    assert!(heard.windows(2).all(|pair| pair[0].seq < pair[1].seq));
}

#[test]
fn a_full_ring_loses_nothing() {
    let daemon = DaemonProcess::start();
    let subscriber = Subscriber::new(daemon.client(), "/", 4096);
    let mut actor = daemon.client();
    let count = 2000;
    for number in 0..count {
        mkdir(&mut actor, &format!("/d{number}")).unwrap();
    }
    let heard = subscriber.until_created(&format!("/d{}", count - 1));
    let expected: Vec<String> = (0..count)
        .map(|number| format!("created /d{number}"))
        .collect();
    assert_eq!(lines(&heard), expected);
}

#[test]
fn a_tree_watch_hears_its_tree_alone() {
    let daemon = DaemonProcess::start();
    let mut actor = daemon.client();
    mkdir(&mut actor, "/in").unwrap();
    let subscriber = Subscriber::new(daemon.client(), "/in/", 0);
    for path in ["/out", "/in/a", "/inside", "/in/end"] {
        mkdir(&mut actor, path).unwrap();
    }
    assert_eq!(
        lines(&subscriber.until_created("/in/end")),
        ["created /in/a", "created /in/end"]
    );
}

#[test]
fn a_broadcast_tells_the_same_on_the_socket() {
    let daemon = DaemonProcess::start();
    let mut listener = daemon.client();
    let subscribe = EventsSubscribe {
        path: b"/a".into(),
        activity: false,
    };
    let subscription = listener.call(subscribe, soon()).unwrap().value;
    let mut actor = daemon.client();
    mkdir(&mut actor, "/b").unwrap();
    mkdir(&mut actor, "/a").unwrap();
    rename(&mut actor, "/a", "/c").unwrap();
    let created = listener.next_broadcast(soon()).unwrap();
    assert_eq!(
        (created.subscription, created.kind),
        (subscription, Kind::CREATED.0)
    );
    assert_eq!(&*created.path, b"/a");
    let renamed = listener.next_broadcast(soon()).unwrap();
    assert_eq!((&*renamed.path, &*renamed.aux), (&b"/a"[..], &b"/c"[..]));
    listener
        .call(EventsUnsubscribe { subscription }, soon())
        .unwrap();
    let again = listener.call(EventsUnsubscribe { subscription }, soon());
    assert_eq!(code(again), Code::NOT_FOUND);
}

#[test]
fn a_listener_that_reads_nothing_is_told_that_it_missed_events() {
    let daemon = DaemonProcess::start();
    let mut listener = daemon.client();
    listener
        .call(
            EventsSubscribe {
                path: b"/".into(),
                activity: false,
            },
            soon(),
        )
        .unwrap();
    let mut actor = daemon.client();
    let long = "x".repeat(200);
    for number in 0..12_000 {
        mkdir(&mut actor, &format!("/{long}{number}")).unwrap();
    }
    let mut heard = 0;
    loop {
        let event = listener.next_broadcast(soon()).unwrap();
        if event.kind == Kind::OVERFLOW.0 {
            break;
        }
        heard += 1;
        assert_eq!(event.seqno, heard);
    }
    mkdir(&mut actor, "/end").unwrap();
    while &*listener.next_broadcast(soon()).unwrap().path != b"/end" {}
}

fn code<T: std::fmt::Debug>(answer: Result<T, CallError>) -> Code {
    match answer {
        Err(CallError::Refused(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn rings_of_odd_sizes_are_refused() {
    let daemon = DaemonProcess::start();
    let mut client = daemon.client();
    let open = |kind, capacity| QueueOpen { kind, capacity };
    assert_eq!(
        code(client.call(open(QueueKind::Native, 5000), soon())),
        Code::INVALID
    );
    assert_eq!(
        code(client.call(open(QueueKind::Native, 1 << 30), soon())),
        Code::LIMIT
    );
}

#[test]
fn queues_and_watches_are_checked() {
    let daemon = DaemonProcess::start();
    let mut client = daemon.client();
    let client = &mut client;
    let open = |kind, capacity| QueueOpen { kind, capacity };
    let by_path = || {
        ByPath {
            path: b"/".into(),
            follow: true,
        }
        .into()
    };
    let kqueue = |queue| WatchRegisterKqueue {
        queue,
        watch: 5,
        fd: 9,
        fflags: 0x7F,
        target: by_path(),
    };
    assert_eq!(code(client.call(kqueue(1), soon())), Code::NOT_FOUND);
    let queue = client
        .open_queue(open(QueueKind::KqueueXnu, 0), soon())
        .unwrap();
    let number = queue.opened.queue;
    assert_eq!(queue.opened.capacity, 65_536);
    assert_eq!(client.call(kqueue(number), soon()).unwrap().node, 1);
    let tree = |path: &str| WatchRegisterTree {
        queue: number,
        watch: 1,
        path: path.into(),
        activity: false,
    };
    assert_eq!(code(client.call(tree("/"), soon())), Code::INVALID);
    client
        .call(
            UpdateDoorbellIdent {
                queue: number,
                ident: 0xAFFE,
            },
            soon(),
        )
        .unwrap();
    let (_, doorbell) = client
        .call_for_descriptors(WatchDoorbell { queue: number }, soon())
        .unwrap();
    assert_eq!(doorbell.len(), 1);
    let report = client.call(Status { after: 0 }, soon()).unwrap();
    let shown = &report.sessions[0].queues[0];
    assert_eq!((shown.watches, shown.doorbell_ident), (1, 0xAFFE));
    client
        .call(
            WatchUnregister {
                queue: number,
                watch: 5,
            },
            soon(),
        )
        .unwrap();
    let again = client.call(
        WatchUnregister {
            queue: number,
            watch: 5,
        },
        soon(),
    );
    assert_eq!(code(again), Code::NOT_FOUND);
    client.call(QueueClose { queue: number }, soon()).unwrap();
    assert_eq!(
        code(client.call(QueueClose { queue: number }, soon())),
        Code::NOT_FOUND
    );
}

#[test]
fn what_an_fsevents_stream_cannot_have_yet_is_refused() {
    let daemon = DaemonProcess::start();
    let mut client = daemon.client();
    let open = QueueOpen {
        kind: QueueKind::FsEvents,
        capacity: 0,
    };
    let queue = client.open_queue(open, soon()).unwrap().opened.queue;
    let stream = |latency_ns, since| WatchRegisterFSEvents {
        queue,
        watch: 1,
        paths: vec!["/".into()],
        flags: 0,
        latency_ns,
        since,
    };
    for (latency_ns, since, names) in [
        (1_000_000, u64::MAX, "a latency"),
        (0, 0, "an earlier event"),
        (0, 7, "an earlier event"),
    ] {
        let refused = client.call(stream(latency_ns, since), soon());
        let Err(CallError::Refused(error)) = refused else {
            panic!("{latency_ns} {since}: {refused:?}");
        };
        assert_eq!(error.code, Code::UNSUPPORTED);
        assert!(error.message.contains(names), "{}", error.message);
    }
    client.call(stream(0, u64::MAX), soon()).unwrap();
}

#[test]
fn a_batch_registers_each_item_by_itself() {
    let daemon = DaemonProcess::start();
    let mut client = daemon.client();
    mkdir(&mut client, "/a").unwrap();
    let stat = FsStat {
        path: b"/a".into(),
        follow: true,
    };
    let node = client.fs("", stat, soon()).unwrap().ino;
    let open = QueueOpen {
        kind: QueueKind::Inotify,
        capacity: 0,
    };
    let queue = client.open_queue(open, soon()).unwrap().opened.queue;
    let watch = |wd, path: &str| {
        let target = ByPath {
            path: path.into(),
            follow: true,
        }
        .into();
        WatchRegisterInotify {
            queue,
            wd,
            mask: 0xFFF,
            target,
        }
        .into()
    };
    let unregister = WatchUnregister { queue, watch: 1 }.into();
    let items = vec![watch(1, "/a"), watch(2, "/none"), unregister, watch(3, "/")];
    let outcomes = client.call(WatchBatch { items }, soon()).unwrap().outcomes;
    let outcome = |code, errno, node| WatchOutcome { code, errno, node };
    assert_eq!(
        outcomes,
        [
            outcome(0, 0, node),
            outcome(Code::FILESYSTEM.0, 2, 0),
            outcome(0, 0, 0),
            outcome(0, 0, 1)
        ]
    );
}

#[test]
fn a_bound_session_may_not_leave_its_branch() {
    let daemon = DaemonProcess::start();
    let mut owner = daemon.client();
    let token = owner
        .call(
            BranchToken {
                name: "main".to_owned(),
            },
            soon(),
        )
        .unwrap()
        .token;
    let hello = Hello {
        token: Some(token),
        ..Hello::new("bound")
    };
    let (mut bound, welcome) = Client::connect(&daemon.socket(), hello, soon()).unwrap();
    assert_eq!(welcome.branch_name, "main");
    mkdir(&mut bound, "/mine").unwrap();
    let ended = bound.call(
        Shutdown {
            reason: "no".to_owned(),
            discard: false,
        },
        soon(),
    );
    assert_eq!(code(ended), Code::FORBIDDEN);
    let made = bound.call(
        BranchToken {
            name: String::new(),
        },
        soon(),
    );
    assert_eq!(code(made), Code::FORBIDDEN);
    let report = bound.call(Status { after: 0 }, soon()).unwrap();
    assert_eq!(report.sessions.len(), 1);
    assert!(report.sessions[0].bound);
}

/// Starts `agentfs watch`, and reads its first line: from then on it is watching.
fn start_watch(daemon: &DaemonProcess, arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = agentfs(daemon.directory.path())
        .arg("watch")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    output.read_line(&mut first).unwrap();
    assert!(first.contains("watching"), "{first}");
    (child, output)
}

#[test]
fn the_program_prints_what_another_one_does() {
    let daemon = DaemonProcess::start();
    let (mut watch, mut output) = start_watch(&daemon, &["/"]);
    assert!(daemon.run(&["fs", "mkdir", "-p", "/a/b"]).status.success());
    assert!(daemon.run(&["fs", "mv", "/a/b", "/c"]).status.success());
    let mut text = String::new();
    for _ in 0..3 {
        output.read_line(&mut text).unwrap();
    }
    assert_eq!(
        text,
        "created   /a/\ncreated   /a/b/\nrenamed   /a/b/ -> /c/\n"
    );
    kill_process(Pid::from_child(&watch), Signal::INT).unwrap();
    assert!(watch.wait().unwrap().success());
    text.clear();
    output.read_line(&mut text).unwrap();
    assert_eq!(text, "");
}

#[test]
fn the_program_ends_after_the_events_it_was_asked_for() {
    let daemon = DaemonProcess::start();
    let (mut watch, output) = start_watch(&daemon, &["/", "--json", "--count", "2"]);
    let mut actor = daemon.client();
    for path in ["/a", "/b", "/c"] {
        mkdir(&mut actor, path).unwrap();
    }
    assert!(watch.wait().unwrap().success());
    let lines: Vec<String> = output.lines().map(Result::unwrap).collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[1].contains(r#""kind":"created","path":"/b""#),
        "{}",
        lines[1]
    );
}

#[test]
fn the_program_says_when_the_daemon_ends() {
    let daemon = DaemonProcess::start();
    let (watch, _output) = start_watch(&daemon, &["/"]);
    drop(daemon.kill());
    let ended = watch.wait_with_output().unwrap();
    assert!(!ended.status.success());
    assert!(
        String::from_utf8(ended.stderr)
            .unwrap()
            .contains("the daemon ended")
    );
}
