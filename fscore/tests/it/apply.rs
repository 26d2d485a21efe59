//! Tests applying a branch's changes to the host.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use agentfs_core::{Action, ApplyError, ApplyMode, RenameFlags};

use crate::support::{World, get};

fn lower() -> (tempfile::TempDir, World) {
    let host = tempfile::tempdir().unwrap();
    fs::create_dir_all(host.path().join("dir/sub")).unwrap();
    for path in ["f", "gone", "dir/a", "dir/sub/deep"] {
        fs::write(host.path().join(path), path).unwrap();
    }
    let world = World::over(host.path());
    (host, world)
}

/// Returns every file below, with its content, and every directory.
fn tree(host: &std::path::Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut dirs = vec![host.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(host).unwrap().display().to_string();
            if path.is_dir() {
                all.push(format!("{name}/"));
                dirs.push(path);
            } else {
                all.push(format!("{name}={}", fs::read_to_string(&path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

fn change(w: &World) {
    w.put("/f", "changed");
    w.b.chmod(&w.root, "/f", 0o600).unwrap();
    w.b.unlink(&w.root, "/gone").unwrap();
    w.b.rename(&w.root, "/dir", "/moved", RenameFlags::REPLACE)
        .unwrap();
    w.put("/moved/sub/deep", "deeper");
    w.mkdir("/n");
    w.put("/n/x", "new");
    w.b.link(&w.root, "/n/x", "/n/y").unwrap();
    w.b.symlink(&w.root, "x", "/n/link").unwrap();
}

#[test]
fn the_host_becomes_what_the_branch_shows() {
    let (host, w) = lower();
    change(&w);
    let before: Vec<_> = ["/f", "/n/x", "/moved/sub/deep", "/n"]
        .iter()
        .map(|path| w.b.stat(&w.root, path).unwrap())
        .collect();
    let plan = w.b.apply(ApplyMode::DryRun).unwrap();
    assert!(plan.conflicts.is_empty());
    assert!(
        plan.actions
            .contains(&Action::Rename("dir".into(), "moved".into()))
    );
    assert!(plan.actions.contains(&Action::Write("f".into())));
    assert_eq!(fs::read_to_string(host.path().join("f")).unwrap(), "f");
    let recorder = w.listen(false);
    assert_eq!(w.b.apply(ApplyMode::Refuse).unwrap(), plan);
    assert_eq!(
        tree(host.path()),
        [
            "f=changed",
            "moved/",
            "moved/a=dir/a",
            "moved/sub/",
            "moved/sub/deep=deeper",
            "n/",
            "n/link=new",
            "n/x=new",
            "n/y=new",
        ]
    );
    let f = fs::metadata(host.path().join("f")).unwrap();
    assert_eq!(f.permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(host.path().join("n/x")).unwrap().nlink(), 2);
    // The branch shows the same, node for node, and has nothing more to apply.
    assert!(recorder.lines().is_empty());
    for (path, old) in ["/f", "/n/x", "/moved/sub/deep", "/n"].iter().zip(before) {
        let new = w.b.stat(&w.root, path).unwrap();
        assert_eq!(
            (new.node, new.mode, new.nlink),
            (old.node, old.mode, old.nlink),
            "{path}"
        );
        assert_eq!(new.mtime, old.mtime, "{path}");
    }
    assert_eq!(w.get("/moved/sub/deep"), "deeper");
    assert!(w.b.apply(ApplyMode::DryRun).unwrap().actions.is_empty());
}

#[test]
fn what_the_host_changed_meanwhile_is_refused_unless_forced() {
    let (host, w) = lower();
    change(&w);
    fs::write(host.path().join("f"), "theirs, too").unwrap();
    fs::write(host.path().join("gone"), "theirs, too").unwrap();
    let before = tree(host.path());
    let refused = w.b.apply(ApplyMode::Refuse).unwrap_err();
    assert_eq!(
        refused,
        ApplyError::Conflicts(vec!["f".into(), "gone".into()])
    );
    assert!(
        refused
            .to_string()
            .starts_with("the host changed f and 1 more")
    );
    assert_eq!(tree(host.path()), before);
    w.b.apply(ApplyMode::Force).unwrap();
    assert_eq!(
        fs::read_to_string(host.path().join("f")).unwrap(),
        "changed"
    );
    assert!(!host.path().join("gone").exists());
}

#[test]
fn a_file_the_host_made_where_the_branch_made_one_is_a_conflict() {
    let (host, w) = lower();
    w.put("/new", "mine");
    fs::write(host.path().join("new"), "theirs").unwrap();
    let refused = w.b.apply(ApplyMode::Refuse).unwrap_err();
    assert_eq!(refused, ApplyError::Conflicts(vec!["new".into()]));
    assert_eq!(
        World::new().b.apply(ApplyMode::Force),
        Err(ApplyError::NoLower)
    );
}

#[test]
fn a_large_file_of_which_little_changed_arrives_whole() {
    let (host, w) = lower();
    let text: String = (0_u32..100_000)
        .map(|n| char::from_u32(u32::from('a') + n % 26).unwrap())
        .collect();
    fs::write(host.path().join("big"), &text).unwrap();
    let h = w.open("/big");
    w.b.write_at(&w.root, h, 50_000, b"X").unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    let mut expected = text.into_bytes();
    expected[50_000] = b'X';
    assert_eq!(fs::read(host.path().join("big")).unwrap(), expected);
    assert_eq!(w.get("/big").into_bytes(), expected);
}

#[test]
fn applying_gets_on_while_another_branch_reads_the_host() {
    let host = tempfile::tempdir().unwrap();
    // These are more files than are kept open.
    for number in 0..200 {
        fs::write(host.path().join(format!("r{number}")), "read").unwrap();
    }
    let w = World::over(host.path());
    let other = w.fs.branch_create_from_current(&w.root, w.b.id(), "other");
    let other = w.fs.branch(other.unwrap()).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let (done, both) = channel();
    let (reader, stop, finished) = (other.clone(), is_over.clone(), done.clone());
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            for number in 0..200 {
                assert_eq!(get(&reader, &format!("/r{number}")), "read");
            }
        }
        finished.send(()).unwrap();
    });
    std::thread::spawn(move || {
        for round in 0..100 {
            for number in 0..10 {
                w.put(&format!("/w{number}"), &round.to_string());
            }
            w.b.apply(ApplyMode::Refuse).unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        done.send(()).unwrap();
    });
    for _ in 0..2 {
        let ended = both.recv_timeout(Duration::from_secs(60));
        ended.expect("neither waits for the other for ever");
    }
    assert_eq!(get(&other, "/w9"), "99");
}
