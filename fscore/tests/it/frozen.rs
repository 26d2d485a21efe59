//! Frozen branches and snapshots: nothing that happens to the lower directory shows in them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use agentfs_core::event::ObjectKind;
use agentfs_core::id::BranchId;
use agentfs_core::{
    ApplyError, ApplyMode, BackstoreMode, Branch, Caller, Errno, FreezeError, FsConfig, FsCore,
    FsLimits, LowerChange, OpenFlags, Overlay, RenameFlags, SetAttr, Version,
};
use agentfs_testkit::random::Random;

use crate::support::{World, get, names, put};

/// What a branch shows of an object: its node, mode, owner, size, times, links, and what it holds.
type Object = (u64, u32, u32, u64, i64, u32, Vec<u8>, Vec<String>);

fn shown(b: &Branch) -> BTreeMap<PathBuf, Object> {
    use std::os::unix::ffi::OsStrExt as _;
    let root = Caller::root();
    let (mut all, mut dirs) = (BTreeMap::new(), vec![PathBuf::from("/")]);
    while let Some(dir) = dirs.pop() {
        for entry in b.list(&root, &dir).unwrap() {
            let path = dir.join(std::ffi::OsStr::from_bytes(&entry.name));
            let attr = b.lstat(&root, &path).unwrap();
            assert_eq!(attr.node, entry.node, "{}", path.display());
            let content = match attr.kind {
                ObjectKind::File => get(b, path.to_str().unwrap()).into_bytes(),
                ObjectKind::Symlink => b.readlink(&root, &path).unwrap().to_vec(),
                ObjectKind::Directory
                | ObjectKind::Fifo
                | ObjectKind::Socket
                | ObjectKind::CharDevice
                | ObjectKind::BlockDevice => Vec::new(),
            };
            let (mut size, mut mtime, mut nlink) = (attr.size, attr.mtime, attr.nlink);
            if attr.kind.is_dir() {
                // A live branch shows those of the host.
                (size, mtime, nlink) = (0, 0, 0);
                dirs.push(path.clone());
            }
            let xattrs = b.listxattr(&root, &path, false);
            let xattrs = xattrs.unwrap().into_iter();
            let xattrs = xattrs.map(|it| String::from_utf8_lossy(&it).into_owned());
            let node = attr.node.0;
            let object = (
                node,
                attr.mode,
                attr.uid,
                size,
                mtime,
                nlink,
                content,
                xattrs.collect(),
            );
            all.insert(path, object);
        }
    }
    all
}

pub(crate) fn frozen(fs: &FsCore, from: BranchId, name: &str) -> Branch {
    let made = fs.branch_create_frozen(&Caller::root(), from, name, &AtomicBool::new(false));
    fs.branch(made.unwrap()).unwrap()
}

pub(crate) fn config(lower: &Path, store: Option<&Path>) -> FsConfig {
    FsConfig {
        overlay: Some(Overlay {
            lower: lower.to_owned(),
        }),
        backstore: store.map_or(BackstoreMode::Memory, |it| BackstoreMode::Disk(it.into())),
        ..FsConfig::default()
    }
}

pub(crate) fn changes(b: &Branch) -> usize {
    let base = b.frozen_base().unwrap();
    b.own_changes_since(&base).unwrap().len()
}

/// Makes a random change in a directory of the host.
fn mutate(random: &mut Random, host: &Path) {
    let mut all = vec![host.to_owned()];
    let mut at = 0;
    while at < all.len() {
        let path = all[at].clone();
        at += 1;
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            let inner = fs::read_dir(&path).unwrap();
            all.extend(inner.map(|it| it.unwrap().path()));
        }
    }
    let dirs: Vec<_> = all
        .iter()
        .filter(|it| fs::symlink_metadata(it).unwrap().is_dir())
        .cloned()
        .collect();
    let one = random.choose(&all).clone();
    let new = random.choose(&dirs).join(format!("n{}", random.below(12)));
    let len = random.below(9000);
    let text: Vec<u8> = random.bytes(len).iter().map(|it| b'a' + it % 26).collect();
    // What cannot be done is left out.
    match random.below(11) {
        0 | 1 => drop(fs::write(&new, text)),
        2 => drop(fs::create_dir(&new)),
        3 => drop(symlink("n1/n2", &new)),
        4 => drop(fs::hard_link(&one, &new)),
        5 if one != host => drop(fs::remove_file(&one)),
        6 if one != host => drop(fs::remove_dir_all(&one)),
        7 if one != host && !new.starts_with(&one) => drop(fs::rename(&one, &new)),
        8 if one != host && !fs::symlink_metadata(&one).unwrap().is_symlink() => {
            let mode = *random.choose(&[0o700, 0o755, 0o711]);
            drop(fs::set_permissions(&one, fs::Permissions::from_mode(mode)));
        }
        9 => {
            let beside = host.join("beside");
            fs::write(&beside, text).unwrap();
            drop(fs::rename(&beside, &new));
            drop(fs::remove_file(&beside));
        }
        _ if fs::symlink_metadata(&one).unwrap().is_file() => fs::write(&one, text).unwrap(),
        _ => {}
    }
}

/// Makes a random change in a branch.
fn change(random: &mut Random, b: &Branch) {
    let root = Caller::root();
    let mut all: Vec<PathBuf> = shown(b).into_keys().collect();
    all.push("/".into());
    let one = random.choose(&all).clone();
    let other = random.choose(&all).clone();
    let new = other.join(format!("n{}", random.below(12)));
    match random.below(7) {
        0 => drop(b.mkdir(&root, &new, 0o755)),
        1 => drop(b.unlink(&root, &one)),
        2 => drop(b.rmdir(&root, &one)),
        3 => drop(b.rename(&root, &one, &new, RenameFlags::REPLACE)),
        4 => {
            let set = SetAttr {
                mode: Some(0o750),
                ..SetAttr::default()
            };
            let _done = b.setattr(&root, &one, false, &set);
        }
        5 => drop(b.link(&root, &one, &new)),
        _ => {
            let flags = OpenFlags::CREATE | OpenFlags::READ_WRITE;
            let path = if random.chance(50) { &one } else { &new };
            if let Ok(handle) = b.open(&root, path, flags, 0o644) {
                b.write_at(&root, handle, 3, b"of the branch").unwrap();
                b.close(&root, handle).unwrap();
            }
        }
    }
}

#[test]
fn nothing_outside_shows_whatever_the_host_does() {
    for seed in 0..24 {
        let mut random = Random::new(seed);
        let (host, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let host = host.path();
        for _ in 0..40 {
            mutate(&mut random, host);
        }
        let on_disk = seed % 2 == 0;
        let config = config(host, on_disk.then(|| store.path()));
        let w = World::with(config.clone());
        let is_changed = seed % 3 == 0;
        for _ in 0..if is_changed { 10 } else { 0 } {
            change(&mut random, &w.b);
        }
        let before = shown(&w.b);
        let one = frozen(&w.fs, FsCore::MAIN, "one");
        assert_eq!(shown(&one), before, "seed {seed}: it starts as main");
        let difference =
            w.fs.diff(Version::Branch(FsCore::MAIN), Version::Branch(one.id()));
        let listed: Vec<_> = difference.unwrap().collect();
        assert!(listed.is_empty(), "seed {seed}: {listed:?}");
        let again = frozen(&w.fs, FsCore::MAIN, "again");
        assert_eq!(shown(&again), before, "seed {seed}: it shares the base");
        for round in 0..3 {
            for _ in 0..15 {
                mutate(&mut random, host);
            }
            assert_eq!(shown(&one), before, "seed {seed}, round {round}");
            let later = frozen(&w.fs, FsCore::MAIN, &format!("later {round}"));
            if is_changed {
                // The host may have changed files of which main has changed the attributes, which
                // cannot be read in main any more.
                continue;
            }
            let live = shown(&w.b);
            let of_host = |it: &BTreeMap<PathBuf, Object>| {
                let own = it.iter().map(|(path, it)| (path.clone(), it.6.clone()));
                own.collect::<BTreeMap<_, _>>()
            };
            assert_eq!(of_host(&shown(&later)), of_host(&live), "seed {seed}");
        }
        for _ in 0..10 {
            change(&mut random, &one);
        }
        let after = shown(&one);
        mutate(&mut random, host);
        assert_eq!(shown(&one), after, "seed {seed}");
        if on_disk {
            let (one, again) = {
                let ids = (one.id(), again.id());
                drop((one, again, w));
                ids
            };
            let w = World::with(config);
            assert_eq!(shown(&w.fs.branch(one).unwrap()), after, "seed {seed}");
            assert_eq!(shown(&w.fs.branch(again).unwrap()), before, "seed {seed}");
            assert!(w.fs.branch(one).unwrap().is_frozen());
            w.fs.checkpoint().unwrap();
            drop(w);
        }
        if on_disk {
            let w = World::with(self::config(host, Some(store.path())));
            let one = w.fs.branch_named("one").unwrap();
            assert_eq!(shown(&w.fs.branch(one).unwrap()), after, "seed {seed}");
        }
    }
}

#[test]
fn a_full_snapshot_brings_back_what_the_host_had() {
    let host = tempfile::tempdir().unwrap();
    let below = |name: &str| host.path().join(name);
    fs::create_dir(below("dir")).unwrap();
    for name in ["kept", "edited", "dir/gone"] {
        fs::write(below(name), format!("{name} as it was")).unwrap();
    }
    let w = World::over(host.path());
    w.put("/own", "of the branch");
    let never = AtomicBool::new(false);
    let full =
        w.fs.snapshot_create_full(&w.root, FsCore::MAIN, "full", &never);
    let before = shown(&w.b);
    fs::write(below("edited"), "new").unwrap();
    fs::remove_dir_all(below("dir")).unwrap();
    fs::write(below("added"), "by the host").unwrap();
    w.put("/own", "changed since");
    let heard = w.listen(false);
    w.fs.restore(&w.root, FsCore::MAIN, full.unwrap()).unwrap();
    assert_eq!(shown(&w.b), before);
    let events = heard.take();
    let kept = |it: &&agentfs_core::event::Envelope| format!("{it:?}").contains("kept");
    assert_eq!(events.iter().find(kept), None, "it is as it was");
    fs::write(below("kept"), "new").unwrap();
    let change = LowerChange::Written("kept".into());
    w.fs.lower_changed(&change);
    w.fs.lower_changed(&LowerChange::Created {
        path: "added".into(),
        is_dir: false,
    });
    assert_eq!(heard.take(), [], "nothing that happens outside is emitted");
    assert_eq!(get(&w.b, "/kept"), "kept as it was");
}

#[test]
fn a_frozen_branch_is_applied_against_its_base() {
    let host = tempfile::tempdir().unwrap();
    let below = |name: &str| host.path().join(name);
    let text = |name: &str| fs::read_to_string(below(name)).unwrap();
    fs::create_dir(below("dir")).unwrap();
    for name in ["edited", "removed", "moved", "mode", "dir/inner", "both"] {
        fs::write(below(name), format!("{name} of the host")).unwrap();
    }
    let w = World::over(host.path());
    let b = frozen(&w.fs, FsCore::MAIN, "agent");
    assert_eq!(changes(&b), 0);
    put(&b, "/edited", "edited");
    put(&b, "/dir/new", "new");
    b.unlink(&w.root, "/removed").unwrap();
    b.rename(&w.root, "/moved", "/dir/moved", RenameFlags::REPLACE)
        .unwrap();
    let set = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    b.setattr(&w.root, "/mode", true, &set).unwrap();
    // What others do beside it stays.
    fs::write(below("dir/inner"), "theirs").unwrap();
    fs::write(below("theirs"), "theirs").unwrap();
    let before = shown(&b);
    let planned = b.apply(ApplyMode::DryRun).unwrap();
    assert_eq!(planned.conflicts, [] as [PathBuf; 0]);
    let applied = b.apply(ApplyMode::Refuse).unwrap();
    assert_eq!(applied.actions.len(), planned.actions.len());
    assert_eq!(text("edited"), "edited");
    assert_eq!(text("dir/new"), "new");
    assert_eq!(text("dir/moved"), "moved of the host");
    assert_eq!(text("dir/inner"), "theirs");
    assert_eq!(text("theirs"), "theirs");
    assert!(!below("removed").exists() && !below("moved").exists());
    assert_eq!(fs::metadata(below("mode")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(shown(&b), before, "it still shows what it showed");
    assert_eq!(changes(&b), 0, "and all of that is applied");
    assert_eq!(b.apply(ApplyMode::Refuse).unwrap().actions, []);

    // What it applied is its base now.
    put(&b, "/edited", "edited again");
    put(&b, "/dir/new", "new again");
    assert_eq!(b.apply(ApplyMode::Refuse).unwrap().actions.len(), 2);
    assert_eq!(
        (&*text("edited"), &*text("dir/new")),
        ("edited again", "new again")
    );

    // The host's version of this file is not the base's.
    put(&b, "/both", "ours");
    put(&b, "/dir/inner", "ours");
    fs::write(below("both"), "theirs, later").unwrap();
    let Err(ApplyError::Conflicts(paths)) = b.apply(ApplyMode::Refuse) else {
        panic!("the host has changed both files");
    };
    assert_eq!(paths, [Path::new("both"), Path::new("dir/inner")]);
    b.apply(ApplyMode::Force).unwrap();
    assert_eq!((&*text("both"), &*text("dir/inner")), ("ours", "ours"));
    assert_eq!(changes(&b), 0);
}

#[test]
fn a_freeze_that_fails_leaves_nothing_behind() {
    let host = tempfile::tempdir().unwrap();
    for number in 0..20 {
        fs::write(host.path().join(format!("f{number}")), vec![b'x'; 10_000]).unwrap();
    }
    let w = World::with(FsConfig {
        limits: FsLimits {
            bytes: 100_000,
            ..FsLimits::default()
        },
        ..config(host.path(), None)
    });
    let never = AtomicBool::new(false);
    let too_much =
        w.fs.branch_create_frozen(&w.root, FsCore::MAIN, "b", &never);
    assert_eq!(too_much, Err(FreezeError::Store(Errno::ENOSPC)));
    let cancelled = AtomicBool::new(true);
    let ended =
        w.fs.branch_create_frozen(&w.root, FsCore::MAIN, "b", &cancelled);
    assert_eq!(ended, Err(FreezeError::Cancelled));
    assert_eq!(w.fs.branches().len(), 1);
    for number in 0..15 {
        fs::remove_file(host.path().join(format!("f{number}"))).unwrap();
    }
    let b = frozen(&w.fs, FsCore::MAIN, "b");
    assert_eq!(names(&b, "/").len(), 5);
    assert!(b.is_frozen() && !w.b.is_frozen());
}

#[test]
fn unchanged_content_is_stored_once() {
    let (host, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let size = || fs::metadata(store.path().join("content")).unwrap().blocks() * 512;
    for name in ["a", "b", "c"] {
        let path = host.path().join(name);
        fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
    }
    let w = World::with(config(host.path(), Some(store.path())));
    // Its base is taken long after the last change, and the new one shortly after another.
    let one = frozen(&w.fs, FsCore::MAIN, "one");
    let before = size();
    assert!(before >= 3 << 20, "{before}");
    fs::write(host.path().join("b"), "new").unwrap();
    let two = frozen(&w.fs, FsCore::MAIN, "two");
    assert_eq!((get(&one, "/b").len(), &*get(&two, "/b")), (1 << 20, "new"));
    // Space is free once a sync says so that began after it was given back.
    let settle = || {
        for round in 0..3 {
            w.put("/round", &round.to_string());
            w.fs.maintain().unwrap();
        }
    };
    settle();
    assert!(size() < before + (1 << 20), "{}", size());
    for branch in [one, two] {
        let id = branch.id();
        drop(branch);
        w.fs.branch_delete(id).unwrap();
    }
    settle();
    assert!(size() <= 9 << 18, "the last base stays: {}", size());
}
