//! Tests that applying brings the host to what the branch shows, whatever was done in the branch: a
//! property, over random operations, compared with the host's own tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use agentfs_core::{ApplyError, ApplyMode, BackstoreMode, Branch, Caller, OpenFlags};
use agentfs_testkit::random::Random;
use tempfile::TempDir;

use crate::replay::{operate, random_path};
use crate::support::{World, get};

/// The content of a file; nothing for a directory.
type Paths = BTreeMap<PathBuf, Option<String>>;

fn host() -> TempDir {
    let host = tempfile::tempdir().unwrap();
    for path in ["a/a", "a/b/c", "b/a", "c/c/c"] {
        fs::create_dir_all(host.path().join(path)).unwrap();
        fs::write(host.path().join(path).join("b"), path).unwrap();
    }
    host
}

fn on_host(host: &Path) -> Paths {
    let mut all = Paths::new();
    let mut dirs = vec![host.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let text = if path.is_dir() {
                dirs.push(path.clone());
                None
            } else {
                Some(fs::read_to_string(&path).unwrap())
            };
            let name = Path::new("/").join(path.strip_prefix(host).unwrap());
            all.insert(name, text);
        }
    }
    all
}

fn in_branch(b: &Branch) -> Paths {
    let mut all = Paths::new();
    let mut dirs = vec![PathBuf::from("/")];
    while let Some(dir) = dirs.pop() {
        for entry in b.list(&Caller::root(), &dir).unwrap() {
            let path = dir.join(std::str::from_utf8(&entry.name).unwrap());
            let text = if entry.kind.is_dir() {
                dirs.push(path.clone());
                None
            } else {
                Some(get(b, path.to_str().unwrap()))
            };
            all.insert(path, text);
        }
    }
    all
}

/// Carries out any operation, or writes some text into whatever file is there; no text is written
/// twice.
fn work(b: &Branch, random: &mut Random, who: &str, count: &mut u32) {
    let root = Caller::root();
    for _ in 0..random.below(25) {
        if random.below(3) > 0 {
            operate(b, random);
            continue;
        }
        let flags = OpenFlags::WRITE_ONLY | OpenFlags::CREATE;
        if let Ok(handle) = b.open(&root, random_path(random), flags, 0o644) {
            *count += 1;
            let text = format!("{who} {count}");
            b.write_at(&root, handle, 0, text.as_bytes()).unwrap();
            b.close(&root, handle).unwrap();
        }
    }
}

/// Creates a filesystem over a directory: every fourth one in a store, which is beside it.
fn world(seed: u64, host: &Path, beside: &TempDir) -> World {
    let backstore = if seed.is_multiple_of(4) {
        BackstoreMode::Disk(beside.path().join("store"))
    } else {
        BackstoreMode::Memory
    };
    World::kept_in(backstore, Some(host))
}

fn check(seed: u64) {
    let (host, beside) = (host(), tempfile::tempdir().unwrap());
    let w = world(seed, host.path(), &beside);
    let mut random = Random::new(seed);
    let mut count = 0;
    for _ in 0..3 {
        work(&w.b, &mut random, "mine", &mut count);
        let expected = in_branch(&w.b);
        w.b.apply(ApplyMode::Refuse).unwrap();
        assert_eq!(on_host(host.path()), expected);
        assert_eq!(in_branch(&w.b), expected);
        assert!(w.b.apply(ApplyMode::DryRun).unwrap().actions.is_empty());
    }
}

#[test]
fn the_host_becomes_what_the_branch_shows_whatever_was_done_there() {
    for seed in 0..150 {
        let outcome = std::panic::catch_unwind(|| check(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// Applies one branch, and then forces the other, which saw nothing of the first. What the first
/// put where the second has nothing, and where no conflict is listed, must be somewhere on the
/// host.
fn check_two(seed: u64) -> bool {
    let (host, beside) = (host(), tempfile::tempdir().unwrap());
    let w = world(seed, host.path(), &beside);
    let id = w.fs.branch_create_from_current(&w.root, w.b.id(), "other");
    let other = w.fs.branch(id.unwrap()).unwrap();
    let mut random = Random::new(seed);
    let mut count = 0;
    work(&w.b, &mut random, "first", &mut count);
    work(&other, &mut random, "second", &mut count);
    let before = on_host(host.path());
    let second = in_branch(&other);
    w.b.apply(ApplyMode::Refuse).unwrap();
    let between = on_host(host.path());
    let listed = other.apply(ApplyMode::DryRun).unwrap().conflicts;
    match other.apply(ApplyMode::Force) {
        Ok(_) => {}
        Err(ApplyError::InTheWay(_)) => {
            assert_eq!(on_host(host.path()), between, "nothing is done");
            return false;
        }
        Err(error) => panic!("{error}"),
    }
    let after = on_host(host.path());
    for (path, text) in &between {
        let is_new =
            text.is_some() && !before.contains_key(path) && !before.values().any(|it| it == text);
        // A conflict carries the name in the branch, which may have moved the directory.
        let is_listed = listed.iter().any(|it| it.file_name() == path.file_name());
        if is_new && !is_listed && !second.contains_key(path) {
            assert!(after.values().any(|it| it == text), "{path:?} is lost");
        }
    }
    assert!(other.apply(ApplyMode::DryRun).unwrap().actions.is_empty());
    true
}

#[test]
fn forcing_one_branch_loses_nothing_that_another_made_elsewhere() {
    let mut applied = 0;
    for seed in 0..200 {
        let outcome = std::panic::catch_unwind(|| check_two(seed));
        applied += u32::from(outcome.unwrap_or_else(|_| panic!("seed {seed}")));
    }
    assert!(applied > 50, "{applied}");
}
