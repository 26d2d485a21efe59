//! Stores that may not take more, branches with a quota, and what is left of a damaged store.

use std::fs;
use std::path::{Path, PathBuf};

use agentfs_proto::message::{FsOpen, FsWrite, MAX_DATA, open_flags};
use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{DaemonProcess, agentfs, private_directory};
use agentfs_testkit::files::write;
use rustix::process::Signal;

use crate::stored::check;

fn start(directory: tempfile::TempDir, store: &Path, more: &[&str]) -> DaemonProcess {
    let arguments = [&["--store", store.to_str().unwrap()], more].concat();
    DaemonProcess::start_in(directory, &arguments)
}

/// Runs `agentfs`, and returns what it says when it fails.
fn refusal(daemon: &DaemonProcess, arguments: &[&str]) -> String {
    let output = daemon.run(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Writes to a new file until that fails; returns how much was written, and why it failed.
fn fill(daemon: &DaemonProcess, branch: &str) -> (u64, String) {
    let mut client = daemon.client();
    let open = FsOpen {
        path: b"/big".into(),
        flags: open_flags::WRITE | open_flags::CREATE,
        mode: 0o644,
    };
    let handle = client.fs(branch, open, soon()).unwrap().handle;
    let mut offset = 0;
    loop {
        let data = vec![7_u8; MAX_DATA].as_slice().into();
        let request = FsWrite {
            handle,
            offset,
            data,
        };
        match client.fs(branch, request, soon()) {
            Ok(_) => offset += MAX_DATA as u64,
            Err(error) => return (offset, error.to_string()),
        }
    }
}

#[test]
fn a_store_with_a_limit_warns_refuses_and_goes_on_to_delete() {
    let beside = tempfile::tempdir().unwrap();
    let store = beside.path().join("store");
    let daemon = start(private_directory(), &store, &["--max-store", "64M"]);
    assert!(!daemon.succeeds(&["status"]).contains("warning"));
    let (written, error) = fill(&daemon, "");
    assert!(written < 64 << 20 && written > 50 << 20, "{written}");
    assert!(error.contains("space"), "{error}");
    for command in [&["status"][..], &["store", "show"]] {
        let said = daemon.succeeds(command);
        assert!(said.contains("agentfs store limit"), "{said}");
    }
    let too_little = refusal(&daemon, &["store", "limit", "1M"]);
    assert!(too_little.contains("less than"), "{too_little}");

    // The limit is the store's, and the next daemon has it.
    let daemon = start(daemon.kill(), &store, &[]);
    let said = daemon.succeeds(&["store", "show"]);
    assert!(said.contains("limit      67108864 bytes"), "{said}");
    daemon.succeeds(&["fs", "rm", "/big"]);
    let said = daemon.succeeds(&["store", "compact"]);
    assert!(!said.contains("warning"), "{said}");
    let said = daemon.succeeds(&["store", "limit", "none"]);
    assert!(!said.contains("limit"), "{said}");
}

#[test]
fn a_branch_with_a_quota_gets_edquot_and_others_go_on() {
    let beside = tempfile::tempdir().unwrap();
    let daemon = start(private_directory(), &beside.path().join("store"), &[]);
    daemon.succeeds(&["branch", "create", "small", "--max-size", "1M"]);
    let (written, error) = fill(&daemon, "small");
    assert!(written <= 1 << 20, "{written}");
    assert!(error.contains("quota"), "{error}");
    write(&mut daemon.client(), "/in main", b"more").unwrap();
}

/// Changes a byte in the middle of the file of a store whose name begins so.
fn damage(store: &Path, prefix: &str) -> PathBuf {
    let entries = fs::read_dir(store).unwrap().map(|it| it.unwrap().path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(prefix)
    };
    let path = entries.into_iter().find(is_it).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() - bytes.len() / 4;
    bytes[middle] ^= 0xFF;
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn what_is_left_of_a_damaged_store_can_be_read_and_is_not_changed() {
    let beside = tempfile::tempdir().unwrap();
    let store = beside.path().join("store");
    let mut daemon = start(private_directory(), &store, &[]);
    write(&mut daemon.client(), "/kept", b"of main").unwrap();
    daemon.succeeds(&["snapshot", "create", "kept"]);
    daemon.succeeds(&["branch", "create", "agent"]);
    let mut client = daemon.client();
    for number in 0..200 {
        let open = FsOpen {
            path: format!("/lost {number}").as_str().into(),
            flags: open_flags::WRITE | open_flags::CREATE,
            mode: 0o644,
        };
        client.fs("agent", open, soon()).unwrap();
    }
    drop(client);
    daemon.succeeds(&["store", "compact"]);
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    damage(&store, "checkpoint-");

    let checked = check(&store);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(1), "{said}");
    assert!(said.contains("damaged at byte"), "{said}");
    let command = format!("agentfs daemon --salvage --store {}", store.display());
    assert!(said.contains(&command), "{said}");
    let refused = agentfs(private_directory().path())
        .args(["daemon", "--store", store.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains(&command), "{said}");

    let listed = |store: &Path| {
        let entries = fs::read_dir(store).unwrap().map(|it| it.unwrap());
        let mut all: Vec<_> = entries
            .map(|it| (it.file_name(), fs::read(it.path()).unwrap()))
            .collect();
        all.sort();
        all
    };
    let before = listed(&store);
    let daemon = start(private_directory(), &store, &["--salvage"]);
    let snapshots = daemon.succeeds(&["snapshot", "list"]);
    assert!(snapshots.contains("kept"), "{snapshots}");
    daemon.succeeds(&["branch", "create", "again", "--from-snapshot", "kept"]);
    let read = daemon.succeeds(&["fs", "cat", "/kept", "--branch", "again"]);
    assert_eq!(read, "of main");
    let changed = write(&mut daemon.client(), "/kept", b"new");
    assert!(changed.is_err(), "it is only read");
    let shown = daemon.run(&["store", "check"]);
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(said.contains("opened to be read"), "{said}");
    drop(daemon);
    assert_eq!(listed(&store), before, "nothing was changed");
}
