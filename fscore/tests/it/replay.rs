//! Tests that the difference, as events, leads from one version to the other, whatever lies
//! between: a property, over random operations, compared with a plain set of paths.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agentfs_core::event::Change;
use agentfs_core::id::NodeId;
use agentfs_core::{BackstoreMode, Branch, Caller, FsCore, RenameFlags};
use agentfs_testkit::random::Random;

use crate::support::World;

pub(crate) fn random_path(random: &mut Random) -> String {
    let depth = 1 + random.below(3);
    (0..depth)
        .map(|_| format!("/{}", random.pick(&["a", "b", "c"])))
        .collect()
}

/// Carries out one random operation and ignores how it ends: most operations fail at first, and the
/// others make a tree.
pub(crate) fn operate(b: &Branch, random: &mut Random) {
    let root = Caller::root();
    let (one, two) = (random_path(random), random_path(random));
    match random.below(8) {
        0 | 1 => b.mkdir(&root, one, 0o755).map(|_| ()),
        2 => b.mknod(&root, one, 0o644, 0).map(|_| ()),
        3 => b.unlink(&root, one),
        4 => b.rmdir(&root, one),
        5 => b.link(&root, one, two).map(|_| ()),
        6 => b.rename(&root, one, two, RenameFlags::EXCHANGE),
        _ => b.rename(&root, one, two, RenameFlags::REPLACE),
    }
    .unwrap_or_default();
}

type Paths = BTreeMap<PathBuf, NodeId>;

fn paths(b: &Branch) -> Paths {
    let mut all = Paths::new();
    let mut dirs = vec![PathBuf::from("/")];
    while let Some(dir) = dirs.pop() {
        for entry in b.list(&Caller::root(), &dir).unwrap() {
            let path = dir.join(std::str::from_utf8(&entry.name).unwrap());
            if entry.kind.is_dir() {
                dirs.push(path.clone());
            }
            all.insert(path, entry.node);
        }
    }
    all
}

/// Makes one change in the set of paths, where it must be possible.
fn replay(all: &mut Paths, change: &Change) {
    let has_parent = |all: &Paths, path: &Path| {
        let parent = path.parent().unwrap();
        assert!(
            parent == Path::new("/") || all.contains_key(parent),
            "{change:?}"
        );
    };
    match change {
        Change::Created { node, at, .. } => {
            has_parent(all, &at.path());
            assert_eq!(all.insert(at.path(), node.id), None, "{change:?}");
        }
        Change::Removed { node, at } => {
            assert_eq!(all.remove(&at.path()), Some(node.id), "{change:?}");
            let below = all.keys().find(|path| path.starts_with(at.path()));
            assert_eq!(below, None, "{change:?}");
        }
        Change::Renamed { node, from, to, .. } => {
            let (from, to) = (from.path(), to.path());
            assert_eq!(all.get(&from), Some(&node.id), "{change:?}");
            assert!(!all.contains_key(&to), "{change:?}");
            has_parent(all, &to);
            let moved: Vec<_> = all
                .keys()
                .filter(|path| path.starts_with(&from))
                .cloned()
                .collect();
            for path in moved {
                let node = all.remove(&path).unwrap();
                let rest = path.strip_prefix(&from).unwrap();
                let new = if rest == Path::new("") {
                    to.clone()
                } else {
                    to.join(rest)
                };
                all.insert(new, node);
            }
        }
        Change::Written { .. }
        | Change::Resized { .. }
        | Change::Attributes { .. }
        | Change::Xattr { .. }
        | Change::BranchCreated { .. }
        | Change::SnapshotCreated { .. }
        | Change::Opened { .. }
        | Change::Read { .. }
        | Change::Closed { .. } => {}
    }
}

fn check(w: &World, seed: u64) {
    let mut random = Random::new(seed);
    for _ in 0..60 {
        operate(&w.b, &mut random);
    }
    let snapshot = w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
    let frozen = w.b.freeze();
    let before = paths(&w.b);
    for _ in 0..random.below(20) {
        operate(&w.b, &mut random);
    }
    let after = paths(&w.b);
    let (changes, _) = w.b.changes_since(&frozen).unwrap();
    let mut replayed = before.clone();
    changes
        .iter()
        .for_each(|change| replay(&mut replayed, change));
    assert_eq!(replayed, after);

    let recorder = w.listen(false);
    w.fs.restore(&w.root, FsCore::MAIN, snapshot).unwrap();
    assert_eq!(paths(&w.b), before);
    recorder
        .take()
        .iter()
        .for_each(|envelope| replay(&mut replayed, &envelope.change));
    assert_eq!(replayed, before);
    assert!(w.b.changes_since(&frozen).unwrap().0.is_empty());
}

/// Checks the sequences of these seeds, each in a filesystem of its own: in memory, and every
/// `stored`th also in a store.
fn check_all(seeds: u64, stored: u64, lower: Option<&Path>) {
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| {
            check(&World::kept_in(BackstoreMode::Memory, lower), seed);
            if seed.is_multiple_of(stored) {
                let beside = tempfile::tempdir().unwrap();
                let store = BackstoreMode::Disk(beside.path().join("store"));
                check(&World::kept_in(store, lower), seed);
            }
        });
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

#[test]
fn the_difference_leads_from_one_version_to_the_other() {
    check_all(1200, 10, None);
}

#[test]
fn also_over_a_host_directory() {
    let host = tempfile::tempdir().unwrap();
    for path in ["a/a", "a/b/c", "b/a", "c/c/c"] {
        std::fs::create_dir_all(host.path().join(path)).unwrap();
        std::fs::write(host.path().join(path).join("b"), path).unwrap();
    }
    check_all(120, 4, Some(host.path()));
}
