//! Tests trees that are deeper than any path and any stack. They are made with relative names, as
//! by a program that changes into each directory it has made.

use std::collections::HashMap;
use std::path::Path;

use agentfs_core::event::{Change, Place};
use agentfs_core::id::NodeId;
use agentfs_core::{
    ApplyError, ApplyMode, Branch, Caller, Errno, FsCore, OpenFlags, PathChange, RenameFlags,
    SetAttr, Version,
};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::support::{Recorder, World, put};

const LEVELS: usize = 100_000;

/// The number of levels that have a path, when each directory's name has one byte.
const WITH_PATH: usize = 4095 / 2;

/// Runs `work` on a stack that is small beside the trees of these tests.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(256 << 10);
    thread.spawn(work).unwrap().join().unwrap();
}

/// Makes a chain of directories below one, and returns all of them.
fn dig(b: &Branch, top: NodeId, levels: usize) -> Vec<NodeId> {
    let root = Caller::root();
    let mut all = vec![top];
    for _ in 0..levels {
        let node = b.mkdir_at(&root, all[all.len() - 1], b"d", 0o755);
        all.push(node.unwrap().node);
    }
    all
}

fn dig_at(b: &Branch, path: &str, levels: usize) -> Vec<NodeId> {
    let top = b.mkdir(&Caller::root(), path, 0o755).unwrap().node;
    dig(b, top, levels)
}

fn place(change: &Change) -> Option<&Place> {
    match change {
        Change::Created { at, .. } | Change::Removed { at, .. } => Some(at),
        Change::Attributes { at, .. } => at.as_ref(),
        Change::Written { .. }
        | Change::Resized { .. }
        | Change::Xattr { .. }
        | Change::Renamed { .. }
        | Change::BranchCreated { .. }
        | Change::SnapshotCreated { .. }
        | Change::Opened { .. }
        | Change::Read { .. }
        | Change::Closed { .. } => None,
    }
}

/// Checks that there is one event for each level, and that the events take no more memory than
/// that.
fn check_events(recorder: &Recorder, levels: usize) {
    let all = recorder.take();
    assert_eq!(all.len(), levels);
    let mut texts: HashMap<*const u8, usize> = HashMap::new();
    let mut cut = 0;
    for place in all.iter().filter_map(|it| place(&it.change)) {
        assert!(place.dir.len() <= 4096);
        cut += usize::from(place.is_cut());
        texts.insert(place.dir.as_ptr(), place.dir.len());
    }
    assert!(cut >= levels - WITH_PATH, "{cut}");
    let bytes: usize = texts.values().sum();
    assert!(bytes < 64 << 20, "{bytes}");
}

#[test]
fn a_tree_of_100_000_levels_is_made_compared_restored_and_deleted() {
    on_a_small_stack(|| {
        let w = World::new();
        let recorder = w.listen(false);
        let empty =
            w.fs.snapshot_create(&w.root, FsCore::MAIN, "empty")
                .unwrap();
        let frozen = w.b.freeze();
        recorder.take();
        let all = dig_at(&w.b, "/top", LEVELS);
        check_events(&recorder, LEVELS + 1);
        assert_eq!(w.b.path_of(all[10]).unwrap().as_os_str().len(), 4 + 20);
        assert_eq!(w.b.path_of(all[LEVELS]), None);

        let full = w.fs.snapshot_create(&w.root, FsCore::MAIN, "full").unwrap();
        let mut diff =
            w.fs.diff(Version::Snapshot(empty), Version::Snapshot(full))
                .unwrap();
        let listed = diff.by_ref().collect::<Vec<_>>();
        assert!(
            listed
                .iter()
                .all(|it| matches!(it, PathChange::Added { .. }))
        );
        assert_eq!(listed.len() + diff.too_deep(), LEVELS + 1);
        assert!((WITH_PATH - 2..=WITH_PATH).contains(&listed.len()));
        let mut back =
            w.fs.diff(Version::Snapshot(full), Version::Snapshot(empty))
                .unwrap();
        let removed = back
            .by_ref()
            .filter(|it| matches!(it, PathChange::Removed { .. }));
        assert_eq!(removed.count() + back.too_deep(), LEVELS + 1);

        let (changes, now) = w.b.changes_since(&frozen).unwrap();
        assert_eq!(changes.len(), LEVELS + 1);
        recorder.take();
        w.fs.restore(&w.root, FsCore::MAIN, empty).unwrap();
        check_events(&recorder, LEVELS + 1);
        w.fs.restore(&w.root, FsCore::MAIN, full).unwrap();
        check_events(&recorder, LEVELS + 1);

        let mode = SetAttr {
            mode: Some(0o700),
            ..SetAttr::default()
        };
        for node in &all[1..] {
            w.b.setattr_node(&w.root, *node, None, &mode).unwrap();
        }
        check_events(&recorder, LEVELS);
        let (changes, _) = w.b.changes_since(&now).unwrap();
        assert_eq!(changes.len(), LEVELS);

        let other = w.fs.branch_create_from_snapshot(&w.root, full, "other");
        let other = other.unwrap();
        w.fs.snapshot_delete(full).unwrap();
        w.fs.restore(&w.root, FsCore::MAIN, empty).unwrap();
        drop((frozen, now, diff, back));
        w.fs.branch_delete(other).unwrap();
    });
}

#[test]
fn a_deep_tree_is_removed_from_its_end() {
    on_a_small_stack(|| {
        let w = World::new();
        let recorder = w.listen(false);
        let all = dig_at(&w.b, "/top", LEVELS);
        recorder.take();
        for dir in all[..LEVELS].iter().rev() {
            w.b.rmdir_at(&w.root, *dir, b"d").unwrap();
        }
        check_events(&recorder, LEVELS);
    });
}

#[test]
fn an_event_that_lies_too_deep_says_below_which_directory() {
    let w = World::new();
    let recorder = w.listen(false);
    let all = dig_at(&w.b, "/top", 3000);
    let heard = recorder.take();
    let last = place(&heard[3000].change).unwrap();
    assert!(last.is_cut());
    assert_eq!(last.parent, all[2999]);
    let above = last.path();
    let above = above.parent().unwrap();
    let shown = w.b.lstat(&w.root, above).unwrap();
    assert!(all.contains(&shown.node));
    // An event about a directory that has a path names the path.
    let first = place(&heard[100].change).unwrap();
    assert!(!first.is_cut());
    assert_eq!(w.b.lstat(&w.root, first.path()).unwrap().node, all[100]);
}

/// A directory of the host that may become too deep for the way in which it is removed at the end.
struct Lower(tempfile::TempDir);

impl Lower {
    fn new() -> Self {
        let lower = Self(tempfile::tempdir().unwrap());
        std::fs::write(lower.path().join("plain"), "old").unwrap();
        lower
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path().join(path)).unwrap()
    }
}

impl Drop for Lower {
    fn drop(&mut self) {
        for name in ["top", "moved"] {
            if self.path().join(name).exists() {
                clear_host(self.path(), name);
            }
        }
    }
}

/// Makes a chain of directories on the host, deeper than a path may be, with a file in each.
fn dig_on_host(top: &Path, levels: usize) {
    std::fs::create_dir(top).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::open(top, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        rustix::fs::mkdirat(&dir, "d", Mode::from_raw_mode(0o755)).unwrap();
        let file = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, "f", file, Mode::from_raw_mode(0o644)).unwrap();
        rustix::io::write(&file, b"text").unwrap();
        dir = rustix::fs::openat(&dir, "d", flags, Mode::empty()).unwrap();
    }
}

/// Removes such a chain, level by level from the top: the rest is moved up each time.
fn clear_host(root: &Path, name: &str) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty()).unwrap();
    loop {
        let top = rustix::fs::openat(&root, name, flags, Mode::empty()).unwrap();
        let _none = rustix::fs::unlinkat(&top, "f", AtFlags::empty());
        let _none = rustix::fs::unlinkat(&top, "g", AtFlags::empty());
        let rest = rustix::fs::renameat(&top, "d", &root, "rest");
        rustix::fs::unlinkat(&root, name, AtFlags::REMOVEDIR).unwrap();
        if rest.is_err() {
            return;
        }
        rustix::fs::renameat(&root, "rest", &root, name).unwrap();
    }
}

/// Descends from node to node, as far as the branch shows them.
fn descend(b: &Branch, mut node: NodeId) -> (usize, Errno) {
    let mut depth = 0;
    loop {
        match b.lookup(&Caller::root(), node, b"d") {
            Ok(attr) => node = attr.node,
            Err(errno) => return (depth, errno),
        }
        depth += 1;
    }
}

#[test]
fn a_host_directory_deeper_than_a_path_is_an_error_there_and_nowhere_else() {
    on_a_small_stack(|| {
        let lower = Lower::new();
        dig_on_host(&lower.path().join("top"), 5000);
        let w = World::over(lower.path());
        let before = w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
        let top = w.b.lstat(&w.root, "/top").unwrap().node;
        let (depth, errno) = descend(&w.b, top);
        assert_eq!(errno, Errno::ENAMETOOLONG);
        assert!((WITH_PATH - 3..=WITH_PATH + 1).contains(&depth), "{depth}");

        put(&w.b, "/plain", "new");
        let deepest = format!("/top{}", "/d".repeat(300));
        put(&w.b, &format!("{deepest}/f"), "changed");
        put(&w.b, &format!("{deepest}/g"), "made");
        w.b.rename(&w.root, "/top", "/moved", RenameFlags::REPLACE)
            .unwrap();
        let main = Version::Branch(FsCore::MAIN);
        let mut diff = w.fs.diff(Version::Snapshot(before), main).unwrap();
        let listed: Vec<_> = diff.by_ref().map(|it| format!("{it:?}")).collect();
        assert_eq!(diff.too_deep(), 0);
        assert!(
            listed.iter().any(|it| it.starts_with("Renamed")),
            "{listed:?}"
        );
        assert!(listed.iter().any(|it| it.contains("/g\"")), "{listed:?}");

        w.b.apply(ApplyMode::Refuse).unwrap();
        assert_eq!(lower.read("plain"), "new");
        let moved = deepest.replace("/top", "moved");
        assert_eq!(lower.read(&format!("{moved}/f")), "changed");
        assert_eq!(lower.read(&format!("{moved}/g")), "made");
        w.fs.restore(&w.root, FsCore::MAIN, before).unwrap();
    });
}

#[test]
fn what_lies_too_deep_for_a_path_is_not_applied_and_stays_in_the_branch() {
    on_a_small_stack(|| {
        let lower = Lower::new();
        let w = World::over(lower.path());
        put(&w.b, "/plain", "new");
        let all = dig_at(&w.b, "/top", 5000);
        let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
        let deep = all[4000];
        let (handle, file) = w.b.create_at(&w.root, deep, b"f", flags, 0o644).unwrap();
        w.b.write(&w.root, handle, b"deep").unwrap();
        w.b.close(&w.root, handle).unwrap();

        let planned = w.b.apply(ApplyMode::DryRun).unwrap();
        let applied = w.b.apply(ApplyMode::Refuse).unwrap();
        assert_eq!(planned, applied);
        assert!(applied.too_deep > 2900, "{}", applied.too_deep);
        assert_eq!(lower.read("plain"), "new");
        let with_path = format!("top{}", "/d".repeat(2000));
        assert!(lower.path().join(with_path).is_dir());
        assert_eq!(w.b.getattr(file.node).unwrap().size, 4);

        // Applying again is possible, and nothing has become a conflict.
        put(&w.b, "/plain", "newer");
        let again = w.b.apply(ApplyMode::Refuse).unwrap();
        assert_eq!(again.too_deep, applied.too_deep);
        assert_eq!(lower.read("plain"), "newer");
        assert_eq!(w.b.getattr(file.node).unwrap().size, 4);
    });
}

#[test]
fn what_was_moved_too_deep_for_a_path_is_not_applied_half() {
    let lower = Lower::new();
    let w = World::over(lower.path());
    let all = dig_at(&w.b, "/top", 3000);
    let top = w.b.lstat(&w.root, "/").unwrap().node;
    w.b.rename_at(
        &w.root,
        top,
        b"plain",
        all[3000],
        b"plain",
        RenameFlags::REPLACE,
    )
    .unwrap();
    put(&w.b, "/plain", "another");
    let refused = w.b.apply(ApplyMode::Force).unwrap_err();
    assert_eq!(refused, ApplyError::TooDeep("plain".into()));
    assert_eq!(lower.read("plain"), "old");
    assert!(!lower.path().join("top").exists());
}

#[test]
fn a_file_at_the_end_of_the_longest_path_is_copied_up() {
    on_a_small_stack(|| {
        let lower = Lower::new();
        dig_on_host(&lower.path().join("top"), 2040);
        let w = World::over(lower.path());
        let file = format!("/top{}/f", "/d".repeat(2039));
        put(&w.b, &file, "changed");
        assert_eq!(w.get(&file), "changed");
        let before = w.b.freeze();
        w.b.unlink(&w.root, &file).unwrap();
        let (changes, _) = w.b.changes_since(&before).unwrap();
        assert!(
            changes
                .iter()
                .any(|it| matches!(it, Change::Removed { .. }))
        );
    });
}
