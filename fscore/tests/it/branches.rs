//! Tests that branches and snapshots do not see each other's changes.

use agentfs_core::id::{BranchId, SnapshotId};
use agentfs_core::{Errno, FsCore, OpenFlags};

use crate::support::{World, get, names, put};

#[test]
fn a_branch_of_a_snapshot_shows_it_whatever_happens_to_the_first() {
    let w = World::new();
    w.mkdir("/d");
    w.put("/d/f", "one");
    let snapshot =
        w.fs.snapshot_create(&w.root, FsCore::MAIN, "before")
            .unwrap();
    w.put("/d/f", "two");
    w.put("/d/g", "new");
    let id =
        w.fs.branch_create_from_snapshot(&w.root, snapshot, "side")
            .unwrap();
    let side = w.fs.branch(id).unwrap();
    assert_eq!(get(&side, "/d/f"), "one");
    assert_eq!(names(&side, "/d"), ["f"]);
    put(&side, "/d/f", "three");
    assert_eq!(w.get("/d/f"), "two");
    // A node keeps its number in every branch that shares it, and new ones are unique.
    let node = |b: &agentfs_core::Branch, path: &str| b.stat(&w.root, path).unwrap().node;
    assert_eq!(node(&side, "/d/f"), node(&w.b, "/d/f"));
    put(&side, "/d/g", "other");
    assert_ne!(node(&side, "/d/g"), node(&w.b, "/d/g"));
}

#[test]
fn writing_part_of_a_shared_page_leaves_the_other_branch_alone() {
    let w = World::new();
    w.put("/f", &"a".repeat(10_000));
    let id =
        w.fs.branch_create_from_current(&w.root, FsCore::MAIN, "side")
            .unwrap();
    let side = w.fs.branch(id).unwrap();
    let h = side.open(&w.root, "/f", OpenFlags::READ_WRITE, 0).unwrap();
    side.write_at(&w.root, h, 5000, b"B").unwrap();
    side.ftruncate(&w.root, h, 6000).unwrap();
    assert_eq!(w.get("/f"), "a".repeat(10_000));
    assert_eq!(
        get(&side, "/f"),
        format!("{}B{}", "a".repeat(5000), "a".repeat(999))
    );
}

#[test]
fn what_only_a_handle_holds_does_not_come_along() {
    let w = World::new();
    w.put("/f", "x");
    let h = w.open("/f");
    let node = w.b.node_of(h).unwrap();
    w.b.unlink(&w.root, "/f").unwrap();
    let id =
        w.fs.branch_create_from_current(&w.root, FsCore::MAIN, "side")
            .unwrap();
    let side = w.fs.branch(id).unwrap();
    assert_eq!(side.getattr(node), Err(Errno::ESTALE));
    assert_eq!(side.statfs().files_free, w.b.statfs().files_free + 1);
    assert_eq!(w.b.getattr(node).unwrap().nlink, 0);
}

#[test]
fn making_is_told_and_listed_and_can_be_undone() {
    let w = World::new();
    let recorder = w.listen(false);
    let s = w.fs.snapshot_create(&w.root, FsCore::MAIN, "s").unwrap();
    let b = w.fs.branch_create_from_snapshot(&w.root, s, "b").unwrap();
    assert_eq!(
        recorder.lines(),
        [format!("snapshot {s} s"), format!("branch {b} b")]
    );
    assert_eq!(w.fs.snapshots()[0].branch, FsCore::MAIN);
    let all: Vec<_> = w.fs.branches().into_iter().map(|info| info.name).collect();
    assert_eq!(all, ["main", "b"]);
    w.fs.snapshot_delete(s).unwrap();
    w.fs.branch_delete(b).unwrap();
    assert!(w.fs.snapshots().is_empty());
    assert_eq!(w.fs.branch(b).unwrap_err(), Errno::ENOENT);
    assert_eq!(w.fs.branch_delete(FsCore::MAIN), Err(Errno::EBUSY));
    assert_eq!(w.fs.snapshot_delete(SnapshotId(9)), Err(Errno::ENOENT));
    assert_eq!(w.fs.restore(&w.root, BranchId(9), s), Err(Errno::ENOENT));
}

#[test]
fn restore_tells_the_difference_and_keeps_open_files() {
    let w = World::new();
    w.mkdir("/d");
    w.put("/d/kept", "1");
    w.put("/d/gone", "22");
    w.put("/d/old", "3");
    let s = w.fs.snapshot_create(&w.root, FsCore::MAIN, "s").unwrap();
    w.b.unlink(&w.root, "/d/gone").unwrap();
    w.b.rename(
        &w.root,
        "/d/old",
        "/new",
        agentfs_core::RenameFlags::REPLACE,
    )
    .unwrap();
    w.put("/d/kept", "changed");
    w.mkdir("/extra");
    w.put("/extra/file", "4");
    let h = w.open("/extra/file");
    let recorder = w.listen(false);
    w.fs.restore(&w.root, FsCore::MAIN, s).unwrap();
    let heard = recorder.take();
    assert!(
        heard
            .iter()
            .all(|e| e.origin == agentfs_core::event::Origin::Restore)
    );
    let lines: Vec<_> = heard
        .iter()
        .map(|e| crate::support::line(&e.change))
        .collect();
    assert_eq!(
        lines,
        [
            "removed /extra/file File0*",
            "removed /extra Directory0",
            "renamed /new to /d/old File1",
            "created /d/gone File1",
            "resized /d/kept File1 Shrank Truncate",
        ]
    );
    assert_eq!(w.names("/d"), ["gone", "kept", "old"]);
    assert_eq!(w.get("/d/kept"), "1");
    let mut buffer = [0; 4];
    assert_eq!(w.b.read_at(&w.root, h, 0, &mut buffer), Ok(1));
    recorder.take();
    w.b.close(&w.root, h).unwrap();
    assert_eq!(recorder.lines(), ["closed /extra/file File0 write"]);
}
