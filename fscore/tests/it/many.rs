//! Tests that many of something cost in proportion: of sizes at which the square of the number would
//! take minutes.

use std::collections::HashMap;

use agentfs_core::id::NodeId;
use agentfs_core::{Branch, Caller, FsCore, OpenFlags, PathChange, RenameFlags, Version};

use crate::support::World;

const MANY: usize = 100_000;

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
fn a_chain_of_100_000_renames_is_compared_and_restored() {
    let w = World::new();
    make_files(&w, MANY);
    let before = w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
    for number in (0..MANY).rev() {
        rename(&w, number, number + 1, RenameFlags::NOREPLACE);
    }
    check_renames(&w, before, MANY);
    w.fs.restore(&w.root, FsCore::MAIN, before).unwrap();
    assert!(w.b.lstat(&w.root, "/f000000").is_ok());
}

#[test]
fn names_that_were_exchanged_in_50_000_pairs_are_compared_and_restored() {
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
fn a_circle_of_100_000_names_is_compared_and_restored() {
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
fn renaming_each_of_40_000_nested_directories_is_heard_compared_and_restored() {
    const LEVELS: usize = 40_000;
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
