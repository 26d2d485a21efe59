//! Tests that many of something cost in proportion: of sizes at which the square of the number would
//! take minutes.

use std::collections::HashMap;

use agentfs_core::id::NodeId;
use agentfs_core::{Branch, Caller, FsCore, OpenFlags, PathChange, RenameFlags, Version};

use crate::support::World;

const MANY: usize = 50_000;

fn top(b: &Branch) -> NodeId {
    b.lstat(&Caller::root(), "/").unwrap().node
}

fn name(number: usize) -> Vec<u8> {
    format!("f{number:06}").into_bytes()
}

/// Makes files in the root.
fn make_files(w: &World, count: usize) {
    let (flags, dir) = (OpenFlags::CREATE | OpenFlags::WRITE_ONLY, top(&w.b));
    for number in 0..count {
        let made = w.b.create_at(&w.root, dir, &name(number), flags, 0o644);
        w.b.close(&w.root, made.unwrap().0).unwrap();
    }
}

fn rename(w: &World, from: usize, to: usize, flags: RenameFlags) {
    let dir = top(&w.b);
    w.b.rename_at(&w.root, dir, &name(from), dir, &name(to), flags)
        .unwrap();
}

/// Makes the renames of a difference one by one, checks that each is possible, and returns where
/// each object is at the end.
fn replay(changes: impl Iterator<Item = PathChange>) -> (usize, HashMap<String, NodeId>) {
    let mut at: HashMap<String, NodeId> = HashMap::new();
    let mut left: HashMap<String, NodeId> = HashMap::new();
    let mut count = 0;
    for change in changes {
        if let PathChange::Renamed { from, to, node, .. } = change {
            let (from, to) = (from.display().to_string(), to.display().to_string());
            if let Some(moved) = at.remove(&from) {
                assert_eq!(moved, node, "{from} is another object");
            } else {
                left.insert(from, node);
            }
            assert!(at.insert(to.clone(), node).is_none(), "{to} is taken");
            count += 1;
        }
    }
    for (name, node) in &at {
        let before = left.get(name);
        assert!(before.is_none_or(|it| it != node), "{name} has not moved");
    }
    (count, at)
}

/// Checks the difference since a snapshot against the branch.
fn check_renames(w: &World, before: agentfs_core::id::SnapshotId, count: usize) {
    let main = Version::Branch(FsCore::MAIN);
    let (made, at) = replay(w.fs.diff(Version::Snapshot(before), main).unwrap());
    assert_eq!(made, count);
    for (path, node) in at {
        assert_eq!(w.b.lstat(&w.root, &path).unwrap().node, node, "{path}");
    }
}

#[test]
fn a_chain_of_50_000_renames_is_compared_and_restored() {
    let w = World::new();
    make_files(&w, MANY);
    let before = w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
    for number in (0..MANY).rev() {
        rename(&w, number, number + 1, RenameFlags::NOREPLACE);
    }
    check_renames(&w, before, MANY);
    w.fs.restore(&w.root, FsCore::MAIN, before).unwrap();
    w.b.lstat(&w.root, "/f000000").unwrap();
}

#[test]
fn names_that_were_exchanged_in_25_000_pairs_are_compared_and_restored() {
    let w = World::new();
    make_files(&w, MANY);
    let before = w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
    for number in (0..MANY).step_by(2) {
        rename(&w, number, number + 1, RenameFlags::EXCHANGE);
    }
    // One object of each pair is moved out of the way and then to its name.
    check_renames(&w, before, MANY / 2 * 3);
    w.fs.restore(&w.root, FsCore::MAIN, before).unwrap();
}

#[test]
fn a_circle_of_50_000_names_is_compared_and_restored() {
    let w = World::new();
    make_files(&w, MANY);
    let before = w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
    for number in 1..MANY {
        rename(&w, number - 1, number, RenameFlags::EXCHANGE);
    }
    check_renames(&w, before, MANY + 1);
    w.fs.restore(&w.root, FsCore::MAIN, before).unwrap();
}

#[test]
fn renaming_each_of_30_000_nested_directories_is_heard_compared_and_restored() {
    const LEVELS: usize = 30_000;
    let w = World::new();
    let mut dirs = vec![top(&w.b)];
    for _ in 0..LEVELS {
        let made = w.b.mkdir_at(&w.root, dirs[dirs.len() - 1], b"d", 0o755);
        dirs.push(made.unwrap().node);
    }
    let before = w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
    let recorder = w.listen(false);
    for dir in &dirs[..LEVELS] {
        let free = RenameFlags::NOREPLACE;
        w.b.rename_at(&w.root, *dir, b"d", *dir, b"e", free)
            .unwrap();
    }
    assert_eq!(recorder.take().len(), LEVELS);
    let main = Version::Branch(FsCore::MAIN);
    let mut diff = w.fs.diff(Version::Snapshot(before), main).unwrap();
    let listed = diff.by_ref().count();
    assert_eq!(listed + diff.too_deep(), LEVELS);
    w.fs.restore(&w.root, FsCore::MAIN, before).unwrap();
    assert_eq!(recorder.take().len(), LEVELS);
}

#[test]
fn a_file_of_50_000_names_is_linked_renamed_compared_restored_and_unlinked() {
    let w = World::new();
    w.put("/file", "content");
    let node = w.b.lstat(&w.root, "/file").unwrap().node;
    let dir = top(&w.b);
    let before = w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
    let recorder = w.listen(false);
    for number in 0..MANY {
        w.b.link_node(&w.root, node, dir, &name(number)).unwrap();
        if number % 100 == 0 {
            // What a snapshot shares is not copied by the next change.
            w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
        }
    }
    assert_eq!(w.b.getattr(node).unwrap().nlink as usize, MANY + 1);
    let full = w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
    for number in 0..MANY / 2 {
        rename(&w, number, MANY + number, RenameFlags::NOREPLACE);
    }
    let main = Version::Branch(FsCore::MAIN);
    let diff = w.fs.diff(Version::Snapshot(full), main).unwrap();
    let moved = |it: &PathChange| matches!(it, PathChange::Renamed { .. });
    assert_eq!(diff.filter(moved).count(), MANY / 2);
    w.fs.restore(&w.root, FsCore::MAIN, full).unwrap();
    recorder.take();
    for number in 0..MANY {
        w.b.unlink_at(&w.root, dir, &name(number)).unwrap();
    }
    assert_eq!(recorder.take().len(), MANY);
    assert_eq!(w.b.path_of(node).unwrap(), std::path::Path::new("/file"));
    w.fs.restore(&w.root, FsCore::MAIN, before).unwrap();
    assert_eq!(w.get("/file"), "content");
}

#[test]
fn a_file_that_is_open_100_000_times_is_closed_the_first_handle_first() {
    let w = World::new();
    w.put("/file", "content");
    let open = || w.open("/file");
    let handles: Vec<_> = (0..2 * MANY).map(|_| open()).collect();
    w.b.unlink(&w.root, "/file").unwrap();
    let (last, first) = handles.split_last().unwrap();
    for handle in first {
        w.b.close(&w.root, *handle).unwrap();
    }
    assert_eq!(w.b.fstat(*last).unwrap().size, 7);
    w.b.close(&w.root, *last).unwrap();
    w.b.close(&w.root, *last).unwrap_err();
}
