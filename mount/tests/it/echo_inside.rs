//! Tests that an echo stays in its mount, whatever the programs there put in its way.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agentfs_core::event::Change;
use agentfs_core::{RenameFlags, SetAttr, SetTime};
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use crate::echo::{Watcher, World, put};

const NAMES: [&str; 6] = ["removed", "moved", "free", "written", "closed", "dir"];

/// Creates a directory outside, which has every name that the echoes are about.
fn elsewhere() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    dir
}

fn fill(dir: &Path) {
    for name in NAMES.iter().filter(|name| **name != "free") {
        if *name == "dir" {
            fs::create_dir(dir.join(name)).unwrap();
        } else {
            fs::write(dir.join(name), *name).unwrap();
        }
    }
}

/// Returns everything in a directory: each object's number, the length of its content and its
/// times.
fn state(dir: &Path) -> BTreeMap<String, (u64, u64, i64, i64, i64)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let it = entry.path().symlink_metadata().unwrap();
        let times = (it.mtime_nsec(), it.ctime_nsec());
        let state = (it.ino(), it.size(), it.mtime(), times.0, times.1);
        (entry.file_name().into_string().unwrap(), state)
    });
    entries.collect()
}

/// Makes changes in `/d` from outside, of every kind that is echoed, and returns them.
fn changes_in_d(w: &World) -> Vec<Change> {
    let (b, root) = (&w.branch, &w.root);
    for name in ["removed", "moved", "written", "closed"] {
        put(b, &format!("/d/{name}"), "old");
    }
    b.mkdir(root, "/d/dir", 0o755).unwrap();
    w.changes();
    b.unlink(root, "/d/removed").unwrap();
    b.rmdir(root, "/d/dir").unwrap();
    b.rename(root, "/d/moved", "/d/free", RenameFlags::REPLACE)
        .unwrap();
    put(b, "/d/closed", "new");
    let set = SetAttr {
        mtime: Some(SetTime::To(5)),
        ..SetAttr::default()
    };
    let node = b.stat(root, "/d/written").unwrap().node;
    b.setattr_node(root, node, None, &set).unwrap();
    b.chmod(root, "/d/written", 0o600).unwrap();
    b.mkdir(root, "/d/made", 0o755).unwrap();
    b.symlink(root, "/f", "/d/link").unwrap();
    put(b, "/d/new", "new");
    echoed_changes(w)
}

/// Returns what was done outside since the last call, but for the changes that have no echo of
/// their own.
fn echoed_changes(w: &World) -> Vec<Change> {
    let mut changes = w.changes();
    changes.retain(|it| !matches!(it, Change::Opened { .. } | Change::Read { .. }));
    changes
}

fn replay(w: &World, change: &Change) -> std::io::Result<()> {
    let mount = w.mounted.handle.info().id;
    w.fixture.mounts.echoes().replay(mount, &[], change)
}

#[test]
fn a_symbolic_link_in_the_place_of_a_directory_leads_no_echo_out_of_the_mount() {
    let Some(w) = World::new() else { return };
    let elsewhere = elsewhere();
    let before = state(elsewhere.path());
    let changes = changes_in_d(&w);
    let watcher = Watcher::on(&w.mounted, &["d"]);
    fs::rename(w.mounted.path("d"), w.mounted.path("d_old")).unwrap();
    symlink(elsewhere.path(), w.mounted.path("d")).unwrap();
    watcher.heard();
    for change in &changes {
        replay(&w, change).unwrap();
        assert_eq!(state(elsewhere.path()), before, "{change:?}");
    }
    // The echoes find the directory that was meant by its new name.
    let heard = watcher.heard();
    for expected in ["d: delete removed", "d: create new", "d: moved_to free"] {
        assert!(heard.iter().any(|it| it == expected), "{heard:?}");
    }
}

#[test]
fn a_directory_that_nobody_can_reach_any_more_is_not_told_of_and_nor_is_another() {
    let Some(w) = World::new() else { return };
    let changes = changes_in_d(&w);
    fs::rename(w.mounted.path("d"), w.mounted.path("gone")).unwrap();
    fs::remove_dir_all(w.mounted.path("gone")).unwrap();
    fs::create_dir(w.mounted.path("d")).unwrap();
    let watcher = Watcher::on(&w.mounted, &["d"]);
    fill(&w.mounted.path("d"));
    watcher.heard();
    for change in &changes {
        assert!(replay(&w, change).is_err(), "{change:?}");
    }
    assert_eq!(watcher.heard(), Vec::<String>::new());
    // The kernel shows what there is.
    for name in NAMES {
        let exists = w.mounted.path("d").join(name).exists();
        assert_eq!(exists, name != "free", "{name}");
    }
}

/// Mounts as root in the namespace of this test; returns `None` when this process may not mount.
struct Over(std::path::PathBuf);

impl Over {
    fn tmpfs(point: &Path) -> Option<Self> {
        let made = rustix::mount::mount("none", point, "tmpfs", MountFlags::empty(), None);
        Self::new(point, made)
    }

    fn bind(source: &Path, point: &Path) -> Option<Self> {
        Self::new(point, rustix::mount::mount_bind(source, point))
    }

    fn new(point: &Path, made: rustix::io::Result<()>) -> Option<Self> {
        match made {
            Err(rustix::io::Errno::PERM) => None,
            made => {
                made.unwrap();
                Some(Self(point.to_owned()))
            }
        }
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap_or(());
    }
}

#[test]
fn what_is_mounted_over_a_directory_is_not_touched() {
    let Some(w) = World::new() else { return };
    let elsewhere = elsewhere();
    let changes = changes_in_d(&w);
    for is_bind in [false, true] {
        let point = w.mounted.path("d");
        let over = if is_bind {
            Over::bind(elsewhere.path(), &point)
        } else {
            Over::tmpfs(&point)
        };
        let Some(_over) = over else { return };
        if !is_bind {
            fill(&point);
        }
        let before = state(&point);
        for change in &changes {
            assert!(replay(&w, change).is_err(), "{change:?}");
            assert_eq!(state(&point), before, "{change:?}");
        }
    }
}

/// Something is mounted on a name, as with a bind mount of a secret file, or of a log that a
/// program follows.
#[test]
fn what_is_mounted_on_a_name_is_neither_touched_nor_taken_away() {
    let Some(w) = World::new() else { return };
    let (b, root) = (&w.branch, &w.root);
    let elsewhere = elsewhere();
    let file = elsewhere.path().join("written");
    put(b, "/d/f", "old");
    w.changes();
    put(b, "/d/f", "new");
    b.chmod(root, "/d/f", 0o600).unwrap();
    put(b, "/d/late", "new");
    b.mkdir(root, "/d/dir", 0o755).unwrap();
    let changes = echoed_changes(&w);
    let point = |name: &str| w.mounted.path("d").join(name);
    let Some(_on_f) = Over::bind(&file, &point("f")) else {
        return;
    };
    let _on_late = Over::bind(&file, &point("late")).unwrap();
    let _on_dir = Over::tmpfs(&point("dir")).unwrap();
    fs::write(point("dir").join("kept"), "").unwrap();
    let before = state(elsewhere.path());
    for change in &changes {
        assert!(replay(&w, change).is_err(), "{change:?}");
        assert_eq!(state(elsewhere.path()), before, "{change:?}");
        assert!(point("dir").join("kept").exists(), "{change:?}");
        assert_eq!(fs::read_to_string(point("late")).unwrap(), "written");
    }
}

#[test]
fn what_is_mounted_over_the_mount_is_not_touched() {
    let Some(w) = World::new() else { return };
    let changes = changes_in_d(&w);
    let point = w.mounted.path("");
    let Some(_over) = Over::tmpfs(&point) else {
        return;
    };
    fs::create_dir(point.join("d")).unwrap();
    fill(&point.join("d"));
    let before = state(&point.join("d"));
    for change in &changes {
        let error = replay(&w, change).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(state(&point.join("d")), before, "{change:?}");
    }
}

/// An attacker in the mount gives a directory and a link out of the mount the same name in turn,
/// for a while, and the echoes go on.
#[test]
fn a_race_for_the_name_of_a_directory_is_lost_by_whoever_wants_out() {
    const FILES: usize = 50;
    let Some(w) = World::new() else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    for number in 0..FILES {
        fs::write(elsewhere.path().join(format!("f{number}")), "").unwrap();
    }
    let before = state(elsewhere.path());
    symlink(elsewhere.path(), w.mounted.path("way-out")).unwrap();
    let (d, way_out) = (w.mounted.path("d"), w.mounted.path("way-out"));
    let is_over = AtomicBool::new(false);
    let echoed = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, &d, cwd, &way_out, flags).unwrap();
            }
        });
        let deadline = Instant::now() + Duration::from_secs(3);
        let dir = w.branch.stat(&w.root, "/d");
        let dir = dir.or_else(|_| w.branch.stat(&w.root, "/way-out"));
        let dir = dir.unwrap().node;
        let mut echoed = 0;
        while Instant::now() < deadline {
            for number in 0..FILES {
                let name = format!("f{number}");
                let made = w.branch.mkdir_at(&w.root, dir, name.as_bytes(), 0o755);
                made.unwrap();
                w.branch.rmdir_at(&w.root, dir, name.as_bytes()).unwrap();
                let made = w
                    .branch
                    .mknod_at(&w.root, dir, name.as_bytes(), 0o100_644, 0);
                let set = SetAttr {
                    mtime: Some(SetTime::To(5)),
                    ..SetAttr::default()
                };
                w.branch
                    .setattr_node(&w.root, made.unwrap().node, None, &set)
                    .unwrap();
                w.branch.unlink_at(&w.root, dir, name.as_bytes()).unwrap();
            }
            echoed += w
                .changes()
                .iter()
                .filter(|it| replay(&w, it).is_ok())
                .count();
        }
        is_over.store(true, Ordering::Relaxed);
        echoed
    });
    assert_eq!(state(elsewhere.path()), before);
    assert!(echoed > 0, "nothing was told at all");
}
