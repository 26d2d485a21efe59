//! Applying is all or nothing, whatever happens at any of its system calls: a property, over random
//! changes of the branch and of the host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use agentfs_testkit::random::Random;

use super::{ApplyError, ApplyMode};
use crate::branch::Branch;
use crate::branch::fs::FsCore;
use crate::lower::transaction::faults::{self, Fault};
use crate::model::caller::Caller;
use crate::model::config::{FsConfig, Overlay};
use crate::model::errno::Errno;
use crate::model::event::ObjectKind;
use crate::model::flags::{OpenFlags, RenameFlags};

/// Kind, permissions and content of what is at each path.
type Tree = BTreeMap<PathBuf, (char, u32, String)>;

const NAMES: [&str; 9] = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "c", "c/a"];

fn on_host(root: &Path) -> Tree {
    let mut all = Tree::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let (kind, text) = if found.is_dir() {
                open.push(path.clone());
                ('d', String::new())
            } else if found.is_symlink() {
                let text = fs::read_link(&path).unwrap();
                ('l', text.to_str().unwrap().to_owned())
            } else {
                ('f', fs::read_to_string(&path).unwrap())
            };
            let mode = found.permissions().mode() & 0o777;
            all.insert(
                path.strip_prefix(root).unwrap().to_owned(),
                (kind, mode, text),
            );
        }
    }
    all
}

fn in_branch(branch: &Branch) -> Tree {
    let root = Caller::root();
    let mut all = Tree::new();
    let mut open = vec![PathBuf::from("/")];
    while let Some(dir) = open.pop() {
        for entry in branch.list(&root, &dir).unwrap() {
            let path = dir.join(std::str::from_utf8(&entry.name).unwrap());
            let attr = branch.lstat(&root, &path).unwrap();
            let (kind, text) = match attr.kind {
                ObjectKind::Directory => {
                    open.push(path.clone());
                    ('d', String::new())
                }
                ObjectKind::Symlink => {
                    let text = branch.readlink(&root, &path).unwrap();
                    ('l', String::from_utf8(text.to_vec()).unwrap())
                }
                ObjectKind::File
                | ObjectKind::Fifo
                | ObjectKind::Socket
                | ObjectKind::CharDevice
                | ObjectKind::BlockDevice => {
                    let handle = branch.open(&root, &path, OpenFlags::READ, 0).unwrap();
                    let mut text = vec![0; 64];
                    let read = branch.read_at(&root, handle, 0, &mut text).unwrap();
                    branch.close(&root, handle).unwrap();
                    text.truncate(read);
                    ('f', String::from_utf8(text).unwrap())
                }
            };
            let at = path.strip_prefix("/").unwrap().to_owned();
            all.insert(at, (kind, attr.mode & 0o777, text));
        }
    }
    all
}

/// Does something to the branch, if it can be done.
fn change(branch: &Branch, random: &mut Random, count: &mut u32) {
    let root = Caller::root();
    let path = |random: &mut Random| format!("/{}", random.choose(&NAMES));
    let (one, other) = (path(random), path(random));
    *count += 1;
    match random.below(10) {
        0..4 => {
            let flags = OpenFlags::WRITE_ONLY | OpenFlags::CREATE;
            if let Ok(handle) = branch.open(&root, &one, flags, 0o644) {
                let text = format!("branch {count}");
                branch.write_at(&root, handle, 0, text.as_bytes()).unwrap();
                branch.close(&root, handle).unwrap();
            }
        }
        4 => drop(branch.mkdir(&root, &one, 0o755)),
        5 => drop(
            branch
                .unlink(&root, &one)
                .or_else(|_| branch.rmdir(&root, &one)),
        ),
        6 | 7 => drop(branch.rename(&root, &one, &other, RenameFlags::REPLACE)),
        8 => drop(branch.link(&root, &one, &other)),
        _ => drop(branch.chmod(&root, &one, 0o700)),
    }
}

/// A project of the host with a branch that has changed it, and what the branch shows.
struct Case {
    above: tempfile::TempDir,
    fs: FsCore,
    before: Tree,
    wanted: Tree,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let above = tempfile::tempdir().unwrap();
        let host = above.path().join("project");
        fs::create_dir_all(host.join("d/e")).unwrap();
        fs::create_dir(host.join("c")).unwrap();
        for name in ["a", "d/a", "d/e/a", "c/a"] {
            fs::write(host.join(name), format!("host {name}")).unwrap();
        }
        let fs = FsCore::new(FsConfig {
            overlay: Some(Overlay {
                lower: host.clone(),
            }),
            ..FsConfig::default()
        })
        .unwrap();
        let mut case = Self {
            above,
            fs,
            before: Tree::new(),
            wanted: Tree::new(),
        };
        let mut count = 0;
        for _ in 0..random.below(12) + 3 {
            change(&case.branch(), &mut random, &mut count);
        }
        // The host has changed, too, sometimes where the branch has.
        if random.below(3) == 0 {
            drop(fs::write(host.join(random.choose(&NAMES)), "theirs"));
        }
        case.before = on_host(&host);
        case.wanted = in_branch(&case.branch());
        case
    }

    fn branch(&self) -> Branch {
        self.fs.branch(FsCore::MAIN).unwrap()
    }

    fn host(&self) -> PathBuf {
        self.above.path().join("project")
    }

    fn check_nothing_is_left(&self) {
        assert_eq!(fs::read_dir(self.above.path()).unwrap().count(), 1);
    }

    fn check_applied(&self, result: &Result<super::Applied, ApplyError>, what: &str) {
        let now = on_host(&self.host());
        match result {
            Ok(_) => assert_eq!(now, self.wanted, "{what}"),
            Err(_) => assert_eq!(now, self.before, "{what}"),
        }
        self.check_nothing_is_left();
    }
}

/// Applies with a fault after each number of points, until there are no more; returns how many there
/// were.
fn at_every_point(seed: u64, check: impl Fn(&Case, usize) -> bool) -> usize {
    (0..)
        .take_while(|points| check(&Case::new(seed), *points))
        .count()
}

const SEEDS: std::ops::Range<u64> = 0..12;

#[test]
fn a_kill_anywhere_leaves_the_project_before_or_after() {
    let check = |case: &Case, points: usize| {
        faults::after(points, Fault::Kill);
        let result = case.branch().apply(ApplyMode::Refuse);
        let (_, was_stopped) = faults::end();
        // The next command opens the project again.
        let overlay = Some(Overlay { lower: case.host() });
        FsCore::new(FsConfig {
            overlay,
            ..FsConfig::default()
        })
        .unwrap();
        let now = on_host(&case.host());
        let is_whole = now == case.before || now == case.wanted;
        assert!(
            is_whole,
            "{points}: {now:?} is neither {:?} nor {:?}",
            case.before, case.wanted
        );
        if result.is_ok() {
            assert_eq!(now, case.wanted);
        }
        case.check_nothing_is_left();
        was_stopped
    };
    let points: usize = SEEDS.map(|seed| at_every_point(seed, check)).sum();
    assert!(points > 100, "{points}");
}

#[test]
fn a_full_disk_anywhere_leaves_the_project_as_it_was_and_so_the_branch() {
    let check = |case: &Case, points: usize| {
        faults::after(points, Fault::Refuse(Errno::ENOSPC));
        let result = case.branch().apply(ApplyMode::Refuse);
        let (_, was_stopped) = faults::end();
        // What was replaced may be removed by the next apply only.
        let now = on_host(&case.host());
        let expected = if result.is_ok() {
            &case.wanted
        } else {
            &case.before
        };
        assert_eq!(now, *expected, "{points}");
        assert_eq!(in_branch(&case.branch()), case.wanted, "{points}");
        let again = case.branch().apply(ApplyMode::Refuse);
        case.check_applied(&again, "again");
        assert_eq!(in_branch(&case.branch()), case.wanted, "{points}");
        was_stopped
    };
    let points: usize = SEEDS.map(|seed| at_every_point(seed, check)).sum();
    assert!(points > 100, "{points}");
}

#[test]
fn what_the_host_saves_anywhere_is_never_overwritten() {
    for name in ["a", "d/a", "b"] {
        let check = |case: &Case, points: usize| {
            let (host, at) = (case.host(), name.to_owned());
            let save = move || {
                // As an editor saves.
                let beside = host.join("saving");
                fs::write(&beside, "saved").unwrap();
                if fs::rename(&beside, host.join(&at)).is_err() {
                    fs::remove_file(&beside).unwrap();
                }
            };
            faults::after(points, Fault::Call(Box::new(save)));
            let result = case.branch().apply(ApplyMode::Refuse);
            let (_, was_stopped) = faults::end();
            let now = on_host(&case.host());
            let others = |tree: &Tree| {
                let all = tree.iter().filter(|(path, _)| *path != Path::new(name));
                let all = all.map(|(path, it)| (path.clone(), it.clone()));
                all.collect::<Tree>()
            };
            let is_saved = now.values().any(|(_, _, text)| text == "saved");
            if was_stopped && now.contains_key(Path::new(name)) {
                let is_dir = now[Path::new(name)].0 == 'd';
                assert!(is_saved || is_dir, "{points}: {result:?} {now:?}");
            }
            if result.is_err() {
                assert_eq!(others(&now), others(&case.before), "{points}");
            }
            case.check_nothing_is_left();
            was_stopped
        };
        let points: usize = (0..4).map(|seed| at_every_point(seed, check)).sum();
        assert!(points > 30, "{points}");
    }
}

#[test]
fn what_is_told_to_end_anywhere_has_done_nothing_or_everything() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let check = |case: &Case, points: usize| {
        let cancelled = Arc::new(AtomicBool::new(false));
        let flag = cancelled.clone();
        let set = move || flag.store(true, Ordering::Relaxed);
        faults::after(points, Fault::Call(Box::new(set)));
        let result = case.branch().apply_unless(ApplyMode::Refuse, &cancelled);
        let (_, was_stopped) = faults::end();
        case.check_applied(&result, "it is told to end");
        assert_eq!(in_branch(&case.branch()), case.wanted, "{points}");
        was_stopped
    };
    let points: usize = (0..4).map(|seed| at_every_point(seed, check)).sum();
    assert!(points > 30, "{points}");
}
