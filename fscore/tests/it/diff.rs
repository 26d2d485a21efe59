//! Tests the difference between two versions, and the events that make up for a gap.

use agentfs_core::{Diff, FsCore, PathChange, RenameFlags, Version};

use crate::support::{World, line};

const MAIN: Version = Version::Branch(FsCore::MAIN);

fn lines(diff: Diff) -> Vec<String> {
    diff.map(|change| match change {
        PathChange::Added { path, .. } => format!("+ {}", path.display()),
        PathChange::Removed { path, .. } => format!("- {}", path.display()),
        PathChange::Renamed { from, to, .. } => format!("{} > {}", from.display(), to.display()),
        PathChange::Modified { path, differs, .. } => {
            let content = if differs.content { " content" } else { "" };
            let mode = if differs.mode { " mode" } else { "" };
            format!("~ {}{content}{mode}", path.display())
        }
    })
    .collect()
}

#[test]
fn every_kind_of_difference_in_an_order_in_which_it_could_be_made() {
    let w = World::new();
    w.mkdir("/gone");
    w.put("/gone/inside", "1");
    w.mkdir("/d");
    w.put("/d/f", "2");
    w.put("/same", "3");
    w.put("/mode", "4");
    let s = Version::Snapshot(w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap());
    assert!(lines(w.fs.diff(s, MAIN).unwrap()).is_empty());
    w.b.unlink(&w.root, "/gone/inside").unwrap();
    w.b.rmdir(&w.root, "/gone").unwrap();
    w.mkdir("/n");
    w.mkdir("/n/m");
    w.put("/n/m/f", "5");
    w.b.rename(&w.root, "/d", "/n/d", RenameFlags::REPLACE)
        .unwrap();
    w.put("/n/d/f", "changed");
    w.b.chmod(&w.root, "/mode", 0o600).unwrap();
    assert_eq!(
        lines(w.fs.diff(s, MAIN).unwrap()),
        [
            "- /gone/inside",
            "- /gone",
            "+ /n",
            "+ /n/m",
            "/d > /n/d",
            "+ /n/m/f",
            "~ /mode mode",
            "~ /n/d/f content",
        ]
    );
    // A file that was touched and set back is no difference.
    let again = w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
    w.mkdir("/x");
    w.b.rmdir(&w.root, "/x").unwrap();
    assert!(lines(w.fs.diff(Version::Snapshot(again), MAIN).unwrap()).is_empty());
}

#[test]
fn a_swap_frees_a_name_before_it_is_taken() {
    let w = World::new();
    w.put("/a", "1");
    w.put("/b", "2");
    let s = Version::Snapshot(w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap());
    w.b.rename(&w.root, "/a", "/b", RenameFlags::EXCHANGE)
        .unwrap();
    let aside = format!("/.{}.0.moving", w.b.stat(&w.root, "/a").unwrap().node);
    assert_eq!(
        lines(w.fs.diff(s, MAIN).unwrap()),
        [
            format!("/b > {aside}"),
            "/a > /b".to_owned(),
            format!("{aside} > /a"),
        ]
    );
}

#[test]
fn a_reader_that_fell_behind_catches_up() {
    let w = World::new();
    w.put("/f", "1");
    w.put("/tmp", "1");
    let frozen = w.b.freeze();
    w.put("/f", "long");
    w.b.unlink(&w.root, "/tmp").unwrap();
    w.mkdir("/n");
    w.put("/n/x", "");
    let (changes, now) = w.b.changes_since(&frozen).unwrap();
    let lines: Vec<_> = changes.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "removed /tmp File0",
            "created /n Directory2",
            "created /n/x File1",
            "written /f File1 Grew",
        ]
    );
    assert_eq!(now.seq(), w.b.last_seq());
    assert!(w.b.changes_since(&now).unwrap().0.is_empty());
}

#[test]
fn what_was_written_last_is_told_last() {
    let w = World::new();
    for path in ["/a", "/b", "/c"] {
        w.put(path, "1");
    }
    let frozen = w.b.freeze();
    for path in ["/c", "/a", "/b"] {
        w.put(path, "other");
    }
    let (changes, _) = w.b.changes_since(&frozen).unwrap();
    let lines: Vec<_> = changes.iter().map(line).collect();
    let written = |name| format!("written /{name} File1 Grew");
    assert_eq!(lines, ["c", "a", "b"].map(written));
}

#[test]
fn over_a_host_directory() {
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(host.path().join("dir/sub")).unwrap();
    for path in ["dir/a", "dir/sub/b", "f", "g"] {
        std::fs::write(host.path().join(path), "text").unwrap();
    }
    let w = World::over(host.path());
    let s = Version::Snapshot(w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap());
    let empty = w.fs.diff(s, MAIN).unwrap();
    assert!(lines(empty).is_empty());
    w.b.unlink(&w.root, "/dir/sub/b").unwrap();
    w.b.rmdir(&w.root, "/dir/sub").unwrap();
    w.b.rename(&w.root, "/dir", "/moved", RenameFlags::REPLACE)
        .unwrap();
    w.put("/f", "new text");
    w.put("/moved/a", "text");
    assert_eq!(
        lines(w.fs.diff(s, MAIN).unwrap()),
        [
            "- /dir/sub/b",
            "- /dir/sub",
            "/dir > /moved",
            "~ /f content",
            "~ /moved/a content",
        ]
    );
    assert_eq!(
        lines(w.fs.diff(MAIN, s).unwrap()),
        [
            "/moved > /dir",
            "+ /dir/sub",
            "+ /dir/sub/b",
            "~ /dir/a content",
            "~ /f content",
        ]
    );
}
