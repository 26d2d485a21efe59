//! Checks branches and snapshots through the program.

use std::io::Write as _;
use std::process::Stdio;

use agentfs_client::{CallError, Client, SubscriptionOptions};
use agentfs_proto::message::{
    BranchCreate, BranchDelete, BranchDiff, BranchList, BranchRetire, BranchToken, Code, Diff,
    FsMkdir, FsStat, Hello, PageNext, SnapshotCreate, SnapshotRestore,
};

use crate::subscriber::{Subscriber, lines};
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{DaemonProcess, agentfs, private_directory};
use agentfs_testkit::files::{mkdir, write};

fn text(text: &str) -> String {
    text.to_owned()
}

fn code<T: std::fmt::Debug>(answer: Result<T, CallError>) -> Code {
    match answer {
        Err(CallError::Refused(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

fn create(client: &mut Client, name: &str) {
    let request = BranchCreate {
        name: text(name),
        from_branch: text(""),
        from_snapshot: text(""),
        frozen: false,
        max_size: 0,
        exclude: Vec::new(),
    };
    client.call(request, soon()).unwrap();
}

/// Runs the program, which must succeed, and returns its standard output.
fn run(daemon: &DaemonProcess, arguments: &[&str]) -> String {
    let done = daemon.run(arguments);
    assert!(
        done.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap()
}

fn write_by_program(daemon: &DaemonProcess, arguments: &[&str], content: &[u8]) {
    let mut child = agentfs(daemon.directory.path())
        .args(["fs", "write"])
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_branch_has_its_own_files_and_tells_what_it_changed() {
    let daemon = DaemonProcess::start();
    write_by_program(&daemon, &["/kept"], b"same");
    write_by_program(&daemon, &["/changed"], b"before");
    write_by_program(&daemon, &["/gone"], b"soon");
    run(&daemon, &["branch", "create", "try"]);
    write_by_program(&daemon, &["/changed", "--branch", "try"], b"after");
    write_by_program(&daemon, &["/added", "--branch=try"], b"text");
    run(&daemon, &["fs", "rm", "/gone", "--branch", "try"]);
    run(&daemon, &["fs", "mv", "/kept", "/moved", "--branch", "try"]);
    assert_eq!(run(&daemon, &["fs", "cat", "/changed"]), "before");
    assert_eq!(
        run(&daemon, &["fs", "cat", "/changed", "--branch", "try"]),
        "after"
    );
    assert_eq!(run(&daemon, &["fs", "ls"]), "changed\ngone\nkept\n");
    let diff = run(&daemon, &["branch", "diff", "try"]);
    let mut changes: Vec<&str> = diff.lines().collect();
    changes.sort_unstable();
    assert_eq!(
        changes,
        ["A /added", "D /gone", "M /changed", "R /kept -> /moved"]
    );
    let against = run(&daemon, &["branch", "diff", "try", "--against", "main"]);
    let mut changes: Vec<&str> = against.lines().collect();
    changes.sort_unstable();
    assert_eq!(
        changes,
        ["A /added", "D /gone", "M /changed", "R /kept -> /moved"]
    );
    assert!(run(&daemon, &["branch", "list"]).contains("try"));
    run(&daemon, &["branch", "delete", "try"]);
    assert!(!run(&daemon, &["branch", "list"]).contains("try"));
    assert!(
        !daemon
            .run(&["fs", "ls", "--branch", "try"])
            .status
            .success()
    );
}

/// Between the look at what a branch changed and the branch's end, a program may still be at work
/// in it.
#[test]
fn what_was_changed_after_the_look_is_not_retired() {
    let daemon = DaemonProcess::start();
    let mut client = daemon.client();
    let seq_of = |client: &mut Client| {
        let all = client.call(BranchList { after: 0 }, soon()).unwrap();
        let found = all.branches.into_iter().find(|it| it.name == "try");
        found.map(|it| it.seq)
    };
    let retire = |seq| BranchRetire {
        name: text("try"),
        seq,
    };
    create(&mut client, "try");
    write_by_program(&daemon, &["/shown", "--branch", "try"], b"shown");
    let shown = seq_of(&mut client).unwrap();
    write_by_program(&daemon, &["/late", "--branch", "try"], b"late");
    client.call(retire(shown), soon()).unwrap();
    let late = seq_of(&mut client).expect("the branch is still there");
    assert_eq!(
        run(&daemon, &["fs", "cat", "/late", "--branch", "try"]),
        "late"
    );
    client.call(retire(late), soon()).unwrap();
    assert_eq!(seq_of(&mut client), None);
}

/// What the host changes meanwhile shows in the branch, and is no reason to keep the branch.
#[test]
fn what_the_host_changed_after_the_look_keeps_no_branch() {
    let lower = private_directory();
    let path = lower.path().to_str().unwrap();
    let daemon = DaemonProcess::start_in(private_directory(), &["--lower", path]);
    let mut client = daemon.client();
    let seq_of = |client: &mut Client| {
        let all = client.call(BranchList { after: 0 }, soon()).unwrap();
        let found = all.branches.into_iter().find(|it| it.name == "try");
        found.map(|it| it.seq)
    };
    create(&mut client, "try");
    write_by_program(&daemon, &["/shown", "--branch", "try"], b"shown");
    let shown = seq_of(&mut client).unwrap();
    let options = SubscriptionOptions::new().socket(daemon.socket());
    let mut subscription = options.branch("try").open().unwrap();
    std::fs::write(lower.path().join("other"), "of the host").unwrap();
    let heard = subscription.next_within(soon()).unwrap();
    assert!(heard.is_some(), "the host's change is not heard");
    assert_ne!(seq_of(&mut client), Some(shown));
    let retire = BranchRetire {
        name: text("try"),
        seq: shown,
    };
    client.call(retire, soon()).unwrap();
    assert_eq!(seq_of(&mut client), None);
}

#[test]
fn a_restore_is_told_as_the_difference() {
    let daemon = DaemonProcess::start();
    let mut actor = daemon.client();
    mkdir(&mut actor, "/kept").unwrap();
    let snapshot = SnapshotCreate {
        name: text("before"),
        branch: text(""),
        full: false,
        exclude: Vec::new(),
    };
    actor.call(snapshot, soon()).unwrap();
    mkdir(&mut actor, "/kept/new").unwrap();
    write(&mut actor, "/file", b"text").unwrap();
    let subscriber = Subscriber::new(daemon.client(), "/", 0);
    let restore = || SnapshotRestore {
        snapshot: text("before"),
        branch: text(""),
    };
    actor.call(restore(), soon()).unwrap();
    mkdir(&mut actor, "/end").unwrap();
    let mut heard = lines(&subscriber.until_created("/end"));
    heard.sort_unstable();
    assert_eq!(
        heard,
        ["created /end", "removed /file", "removed /kept/new"]
    );
    let unknown = SnapshotRestore {
        snapshot: text("after"),
        branch: text(""),
    };
    assert_eq!(code(actor.call(unknown, soon())), Code::NOT_FOUND);
}

#[test]
fn a_long_difference_comes_in_pages() {
    let daemon = DaemonProcess::start();
    let mut client = daemon.client();
    for number in 0..2000 {
        mkdir(&mut client, &format!("/d{number:04}")).unwrap();
    }
    let mut diff = client
        .call(
            BranchDiff {
                name: text(""),
                against: text(""),
            },
            soon(),
        )
        .unwrap();
    let first = diff.next;
    let mut paths = Vec::new();
    let mut pages = 1;
    loop {
        let Diff { entries, next } = diff;
        paths.extend(
            entries
                .into_iter()
                .map(|entry| String::from_utf8(entry.path.0).unwrap()),
        );
        if next == 0 {
            break;
        }
        diff = client.call(PageNext { page: next }, soon()).unwrap();
        pages += 1;
    }
    assert!(pages > 1);
    paths.sort_unstable();
    let expected: Vec<String> = (0..2000).map(|number| format!("/d{number:04}")).collect();
    assert_eq!(paths, expected);
    assert_eq!(
        code(client.call(PageNext { page: first }, soon())),
        Code::NOT_FOUND
    );
}

#[test]
fn branches_hear_nothing_of_each_other() {
    let daemon = DaemonProcess::start();
    let mut owner = daemon.client();
    create(&mut owner, "other");
    let hello = Hello {
        branch: text("other"),
        ..Hello::new("test")
    };
    let (other, welcome) = Client::connect(&daemon.socket(), hello, soon()).unwrap();
    assert_eq!(welcome.branch_name, "other");
    let subscriber = Subscriber::new(other, "/", 0);
    mkdir(&mut owner, "/in-main").unwrap();
    let mkdir_there = |path: &str| FsMkdir {
        path: path.into(),
        mode: 0o755,
    };
    owner.fs("other", mkdir_there("/in-other"), soon()).unwrap();
    assert_eq!(
        lines(&subscriber.until_created("/in-other")),
        ["created /in-other"]
    );
}

#[test]
fn a_bound_session_works_in_its_branch_alone() {
    let daemon = DaemonProcess::start();
    let mut owner = daemon.client();
    create(&mut owner, "mine");
    let token = owner
        .call(BranchToken { name: text("mine") }, soon())
        .unwrap()
        .token;
    let hello = Hello {
        token: Some(token),
        ..Hello::new("bound")
    };
    let (mut bound, welcome) = Client::connect(&daemon.socket(), hello.clone(), soon()).unwrap();
    assert_eq!(welcome.branch_name, "mine");
    let root = || FsStat {
        path: b"/".into(),
        follow: true,
    };
    bound.fs("mine", root(), soon()).unwrap();
    let seen = bound
        .call(BranchList { after: 0 }, soon())
        .unwrap()
        .branches;
    assert_eq!(
        seen.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(),
        ["mine"]
    );
    assert_eq!(code(bound.fs("main", root(), soon())), Code::FORBIDDEN);
    assert_eq!(
        code(bound.call(
            BranchDelete {
                name: text("mine"),
                force: false
            },
            soon()
        )),
        Code::FORBIDDEN
    );
    let against = BranchDiff {
        name: text(""),
        against: text("main"),
    };
    assert_eq!(code(bound.call(against, soon())), Code::FORBIDDEN);
    owner
        .call(
            BranchDelete {
                name: text("mine"),
                force: false,
            },
            soon(),
        )
        .unwrap();
    Client::connect(&daemon.socket(), hello, soon()).unwrap_err();
    let branches = owner
        .call(BranchList { after: 0 }, soon())
        .unwrap()
        .branches;
    assert_eq!(branches.len(), 1);
}

#[test]
fn names_that_are_taken_or_odd_are_refused() {
    let daemon = DaemonProcess::start();
    let mut client = daemon.client();
    let mut make = |name: &str| {
        let request = BranchCreate {
            name: text(name),
            from_branch: text(""),
            from_snapshot: text(""),
            frozen: false,
            max_size: 0,
            exclude: Vec::new(),
        };
        code(client.call(request, soon()))
    };
    assert_eq!(make("main"), Code::EXISTS);
    for odd in ["", "-x", "a b", "a\nb", &"x".repeat(256)] {
        assert_eq!(make(odd), Code::INVALID, "{odd:?}");
    }
    let from_nothing = BranchCreate {
        name: text("b"),
        from_branch: text("none"),
        from_snapshot: text(""),
        frozen: false,
        max_size: 0,
        exclude: Vec::new(),
    };
    assert_eq!(code(client.call(from_nothing, soon())), Code::NOT_FOUND);
}

#[test]
fn a_lower_directory_shows_through_and_stays_as_it_is() {
    let lower = private_directory();
    std::fs::write(lower.path().join("file"), "from the host").unwrap();
    let path = lower.path().to_str().unwrap();
    let daemon = DaemonProcess::start_in(private_directory(), &["--lower", path]);
    assert_eq!(run(&daemon, &["fs", "cat", "/file"]), "from the host");
    write_by_program(&daemon, &["/file"], b"changed");
    run(
        &daemon,
        &["fs", "xattr", "set", "/file", "user.note", "checked"],
    );
    assert_eq!(
        run(&daemon, &["fs", "xattr", "get", "/file", "user.note"]),
        "checked\n"
    );
    assert_eq!(run(&daemon, &["fs", "cat", "/file"]), "changed");
    assert_eq!(
        std::fs::read_to_string(lower.path().join("file")).unwrap(),
        "from the host"
    );
    assert_eq!(run(&daemon, &["branch", "diff"]), "M /file\n");
    let missing = agentfs(private_directory().path())
        .args(["daemon", "--lower", "/no/such/directory"])
        .output()
        .unwrap();
    assert!(
        String::from_utf8(missing.stderr)
            .unwrap()
            .contains("/no/such/directory")
    );
}

#[test]
fn applying_writes_to_the_host_and_refuses_what_the_host_changed_too() {
    let lower = private_directory();
    let host = |name: &str| lower.path().join(name);
    std::fs::write(host("file"), "from the host").unwrap();
    let path = lower.path().to_str().unwrap();
    let daemon = DaemonProcess::start_in(private_directory(), &["--lower", path]);
    run(&daemon, &["branch", "create", "try"]);
    write_by_program(&daemon, &["/new", "--branch", "try"], b"text");
    let planned = run(&daemon, &["branch", "apply", "try", "--dry-run"]);
    assert!(
        planned.contains("/new") && planned.contains("would apply"),
        "{planned}"
    );
    assert!(!host("new").exists());
    run(&daemon, &["branch", "apply", "try"]);
    assert_eq!(std::fs::read_to_string(host("new")).unwrap(), "text");

    write_by_program(&daemon, &["/file", "--branch", "try"], b"from the branch");
    std::fs::write(host("file"), "from somebody else").unwrap();
    let refused = daemon.run(&["branch", "apply", "try"]);
    assert!(!refused.status.success());
    assert!(
        String::from_utf8(refused.stdout)
            .unwrap()
            .contains("conflict /file")
    );
    assert!(
        String::from_utf8(refused.stderr)
            .unwrap()
            .contains("--force")
    );
    assert_eq!(
        std::fs::read_to_string(host("file")).unwrap(),
        "from somebody else"
    );
    run(&daemon, &["branch", "apply", "try", "--force"]);
    assert_eq!(
        std::fs::read_to_string(host("file")).unwrap(),
        "from the branch"
    );
}

#[test]
fn without_a_lower_directory_there_is_nowhere_to_apply_to() {
    let daemon = DaemonProcess::start();
    let refused = daemon.run(&["branch", "apply", "main"]);
    assert!(!refused.status.success());
    assert!(
        String::from_utf8(refused.stderr)
            .unwrap()
            .contains("--lower")
    );
}
