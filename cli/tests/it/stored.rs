//! A daemon with a store on disk: its branches outlive it.

use std::fs;
use std::path::Path;

use agentfs_proto::message::{FsOpen, FsWrite, MAX_DATA, open_flags};
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::DaemonProcess;
use agentfs_testkit::files::write;
use rustix::process::Signal;

fn start(directory: tempfile::TempDir, lower: &Path, store: &Path) -> DaemonProcess {
    let arguments = [
        "--lower",
        lower.to_str().unwrap(),
        "--store",
        store.to_str().unwrap(),
    ];
    DaemonProcess::start_in(directory, &arguments)
}

#[test]
fn branches_outlive_a_daemon_that_is_killed_and_one_that_is_stopped() {
    let (lower, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = beside.path().join("store");
    fs::write(lower.path().join("f"), "of the host").unwrap();
    let directory = agentfs_testkit::daemon::private_directory();
    let daemon = start(directory, lower.path(), &store);
    daemon.succeeds(&["branch", "create", "agent"]);
    daemon.succeeds(&["fs", "mv", "/f", "/moved", "--branch", "agent"]);
    write(&mut daemon.client(), "/in main", b"of the branch").unwrap();
    daemon.succeeds(&["snapshot", "create", "before", "--branch", "agent"]);
    daemon.succeeds(&["fs", "rm", "/moved", "--branch", "agent"]);

    // All of it is there after a kill, and after a stop that follows.
    let mut daemon = start(daemon.kill(), lower.path(), &store);
    let listed = |daemon: &DaemonProcess, branch| {
        let text = daemon.succeeds(&["fs", "ls", "/", "--branch", branch]);
        let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(daemon.succeeds(&["fs", "cat", "/in main"]), "of the branch");
    assert_eq!(listed(&daemon, "agent"), [""; 0]);
    daemon.succeeds(&["snapshot", "restore", "before", "--branch", "agent"]);
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    let mut daemon = start(
        agentfs_testkit::daemon::private_directory(),
        lower.path(),
        &store,
    );
    assert_eq!(listed(&daemon, "agent"), ["moved"]);
    assert_eq!(
        daemon.succeeds(&["fs", "cat", "/moved", "--branch", "agent"]),
        "of the host"
    );
    daemon.succeeds(&["shutdown"]);
    assert!(daemon.wait().success());
    assert_eq!(
        fs::read_to_string(lower.path().join("f")).unwrap(),
        "of the host"
    );
}

#[test]
fn a_store_that_another_daemon_has_is_refused_by_name() {
    let (lower, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = beside.path().join("store");
    let directory = agentfs_testkit::daemon::private_directory();
    let _first = start(directory, lower.path(), &store);
    let other = agentfs_testkit::daemon::private_directory();
    let second = agentfs_testkit::daemon::agentfs(other.path())
        .args(["daemon", "--store", store.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(
        said.contains("is in use by the daemon of process"),
        "{said}"
    );
    assert!(said.contains(store.to_str().unwrap()), "{said}");
}

#[test]
fn a_full_snapshot_brings_back_what_the_project_was() {
    let (lower, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = beside.path().join("store");
    let host = |name: &str| lower.path().join(name);
    fs::write(host("f"), "old").unwrap();
    fs::write(host("gone"), "old").unwrap();
    let directory = agentfs_testkit::daemon::private_directory();
    let daemon = start(directory, lower.path(), &store);
    daemon.succeeds(&["snapshot", "create", "full", "--full"]);
    daemon.succeeds(&["branch", "create", "frozen", "--frozen"]);
    fs::write(host("f"), "new").unwrap();
    fs::remove_file(host("gone")).unwrap();
    let shown = |daemon: &DaemonProcess, branch: &str| {
        let cat = |name| daemon.succeeds(&["fs", "cat", name, "--branch", branch]);
        (cat("/f"), cat("/gone"))
    };
    let old = ("old".to_owned(), "old".to_owned());
    assert_eq!(shown(&daemon, "frozen"), old);
    let daemon = start(daemon.kill(), lower.path(), &store);
    assert_eq!(shown(&daemon, "frozen"), old);
    assert_eq!(daemon.succeeds(&["fs", "cat", "/f"]), "new", "main is live");
    assert_eq!(daemon.succeeds(&["branch", "diff", "frozen"]), "");
    daemon.succeeds(&["snapshot", "restore", "full"]);
    assert_eq!(shown(&daemon, "main"), old);
}

#[test]
fn a_branch_is_compared_with_the_same_state_after_a_restart_and_can_be_applied() {
    let (lower, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = beside.path().join("store");
    fs::write(lower.path().join("f"), "of the host").unwrap();
    fs::write(lower.path().join("gone"), "").unwrap();
    let directory = agentfs_testkit::daemon::private_directory();
    let daemon = start(directory, lower.path(), &store);
    // What another branch was made from is not what the directory holds.
    write(&mut daemon.client(), "/in main", b"of main").unwrap();
    daemon.succeeds(&["branch", "create", "agent"]);
    daemon.succeeds(&["fs", "mv", "/f", "/moved", "--branch", "agent"]);
    daemon.succeeds(&["fs", "rm", "/gone", "--branch", "agent"]);
    daemon.succeeds(&["branch", "create", "unchanged"]);
    let diffs = |daemon: &DaemonProcess| {
        ["main", "agent", "unchanged"].map(|it| daemon.succeeds(&["branch", "diff", it]))
    };
    let before = diffs(&daemon);
    let daemon = start(daemon.kill(), lower.path(), &store);
    assert_eq!(diffs(&daemon), before);
    let snapshots = daemon.succeeds(&["--json", "snapshot", "list"]);
    assert!(!snapshots.contains("base"), "{snapshots}");

    daemon.succeeds(&["branch", "delete", "unchanged"]);
    let daemon = start(daemon.kill(), lower.path(), &store);
    daemon.succeeds(&["branch", "apply", "agent"]);
    assert!(!lower.path().join("gone").exists());
    let moved = fs::read_to_string(lower.path().join("moved"));
    assert_eq!(moved.unwrap(), "of the host");
    let listed = daemon.succeeds(&["branch", "list"]);
    assert!(!listed.contains("unchanged"), "{listed}");
}

/// Returns the bytes of a process that are in memory and belong to no file.
#[cfg(target_os = "linux")]
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("RssAnon:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB").parse::<u64>();
    kib.unwrap() * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn what_a_branch_holds_is_not_in_the_daemons_memory() {
    const WRITTEN: u64 = 256 << 20;
    let (lower, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let directory = agentfs_testkit::daemon::private_directory();
    let daemon = start(directory, lower.path(), &beside.path().join("store"));
    let mut client = daemon.client();
    let open = FsOpen {
        path: "/big".into(),
        flags: open_flags::WRITE | open_flags::CREATE,
        mode: 0o644,
    };
    let handle = client.fs("", open, soon()).unwrap().handle;
    let data = vec![7; MAX_DATA];
    let before = resident(daemon.pid());
    for offset in (0..WRITTEN).step_by(data.len()) {
        let data = data.as_slice().into();
        let write = FsWrite {
            handle,
            offset,
            data,
        };
        client.fs("", write, soon()).unwrap();
    }
    let after = resident(daemon.pid());
    let grown = after.saturating_sub(before);
    assert!(grown < WRITTEN / 4, "{grown} bytes for {WRITTEN}");
}

/// Runs `agentfs store check` on a store that no daemon has.
pub(super) fn check(store: &Path) -> std::process::Output {
    let nowhere = agentfs_testkit::daemon::private_directory();
    agentfs_testkit::daemon::agentfs(nowhere.path())
        .args(["store", "check", "--store", store.to_str().unwrap()])
        .output()
        .unwrap()
}
