//! Checks what the daemon does with a tree that is deeper than any path, made through a mount.

use std::fs;
use std::path::Path;
use std::process::Command;

use agentfs_proto::message::{BranchExport, DiffKind};
use agentfs_testkit::environment::can_mount;
use rustix::fs::{Mode, OFlags};

use agentfs_testkit::child::soon;
use agentfs_testkit::daemon::{DaemonProcess, private_directory};

const LEVELS: usize = 5000;

/// Makes directories as a program does that changes into each one it makes; a file is at the end.
fn dig(top: &Path) {
    fs::create_dir(top).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::open(top, flags, Mode::empty()).unwrap();
    for _ in 0..LEVELS {
        rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, "d", flags, Mode::empty()).unwrap();
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&dir, "f", flags, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"text").unwrap();
}

#[track_caller]
fn said(daemon: &DaemonProcess, arguments: &[&str]) -> String {
    let output = daemon.run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_tree_of_5000_levels_ends_nobody() {
    if !can_mount() {
        return;
    }
    let lower = private_directory();
    fs::write(lower.path().join("plain"), "old").unwrap();
    let path = lower.path().to_str().unwrap();
    let daemon = DaemonProcess::start_in(private_directory(), &["--lower", path]);
    let point = tempfile::tempdir().unwrap();
    said(&daemon, &["branch", "create", "deep"]);
    said(
        &daemon,
        &["snapshot", "create", "before", "--branch", "deep"],
    );
    said(&daemon, &["mount", "deep", point.path().to_str().unwrap()]);
    dig(&point.path().join("top"));
    fs::write(point.path().join("plain"), "new").unwrap();
    said(
        &daemon,
        &["umount", "--detach", point.path().to_str().unwrap()],
    );

    let differences = said(&daemon, &["branch", "diff", "deep"]);
    assert!(differences.contains("M /plain"));
    assert!(differences.contains("A /top/d/d/"));
    let deeper: Vec<&str> = differences
        .lines()
        .filter(|it| it.starts_with('!'))
        .collect();
    assert_eq!(deeper.len(), 1);
    assert!(deeper[0].starts_with("! /top/d/d/"));
    said(&daemon, &["branch", "diff", "deep", "--against", "main"]);

    said(
        &daemon,
        &["snapshot", "create", "after", "--branch", "deep"],
    );
    let restore = |name| said(&daemon, &["snapshot", "restore", name, "--branch", "deep"]);
    restore("before");
    assert_eq!(said(&daemon, &["branch", "diff", "deep"]), "");
    restore("after");

    let exported = private_directory();
    let directory = exported.path().join("export");
    let request = BranchExport {
        name: "deep".to_owned(),
        path: directory.as_path().into(),
    };
    let written = daemon.client().call(request, soon()).unwrap();
    assert_eq!(written.unread_count, 1, "what is left out is named");
    assert!(written.unread[0].path.starts_with(b"/top/d/d"));
    assert_eq!(fs::read(directory.join("files/plain")).unwrap(), b"new");
    let list = fs::read_to_string(directory.join("changes.json")).unwrap();
    let kind = serde_json::to_string(&DiffKind::TooDeep).unwrap();
    assert!(!list.contains(&kind));

    let applied = said(&daemon, &["branch", "apply", "deep"]);
    assert!(applied.contains("deeper than a path can lead"), "{applied}");
    assert_eq!(fs::read(lower.path().join("plain")).unwrap(), b"new");
    let differences = said(&daemon, &["branch", "diff", "deep"]);
    assert!(differences.contains("! /top/d/d/"), "it is still there");

    said(&daemon, &["branch", "delete", "deep"]);
    said(&daemon, &["status"]);
    // The tree is deeper than most programs that remove trees can go.
    let removed = Command::new("rm")
        .arg("-rf")
        .arg(lower.path().join("top"))
        .status();
    assert!(removed.unwrap().success());
}
