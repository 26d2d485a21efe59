//! A daemon with a store on disk: its branches outlive it.

use std::fs;
use std::path::Path;

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
    assert!(said.contains("is in use by another process"), "{said}");
    assert!(said.contains(store.to_str().unwrap()), "{said}");
}
