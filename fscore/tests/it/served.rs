//! Tests that a change is based on what the branch has shown, whatever the host has made of it
//! meanwhile.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use agentfs_core::{ApplyError, ApplyMode, Errno, OpenFlags, RenameFlags};

use crate::support::World;

const OLD: &str = "the old text of the host\n";
const NEW: &str = "THE NEW TEXT OF THE HOST\n";
const SHORT: &str = "cut\n";

fn lower(names: &[&str]) -> (tempfile::TempDir, World) {
    let host = tempfile::tempdir().unwrap();
    for name in names {
        fs::write(host.path().join(name), OLD).unwrap();
    }
    let world = World::over(host.path());
    (host, world)
}

/// How the host brings new content to a file.
type Way = fn(&Path, &str);

fn in_place(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

fn by_rename(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

/// Writes the file and sets its old modification time again, as `cp -p` and `tar` do.
fn with_the_old_time(path: &Path, text: &str) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, text).unwrap();
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

/// Puts another file in its place that has its size and its modification time, as when both were
/// written in one tick of the kernel's clock.
fn by_rename_with_the_old_time(path: &Path, text: &str) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    let file = fs::File::options().write(true).open(&beside).unwrap();
    file.set_modified(time).unwrap();
    fs::rename(beside, path).unwrap();
}

const WAYS: [(&str, Way); 4] = [
    ("in place", in_place),
    ("by rename", by_rename),
    ("with the old time", with_the_old_time),
    ("by rename with the old time", by_rename_with_the_old_time),
];

#[track_caller]
fn refuses(w: &World, host: &tempfile::TempDir, names: &[&str], text: &str, how: &str) {
    let refused = w.b.apply(ApplyMode::Refuse);
    let names: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    assert_eq!(refused, Err(ApplyError::Conflicts(names.clone())), "{how}");
    for name in names {
        let now = fs::read_to_string(host.path().join(&name)).unwrap();
        assert_eq!(now, text, "{how}: {}", name.display());
    }
}

/// An editor reads a file, and writes all of it when the user saves.
#[test]
fn an_edit_of_what_was_read_conflicts_with_what_the_host_wrote_since() {
    for (how, rewrite) in WAYS {
        let (host, w) = lower(&["f", "g"]);
        let read = w.get("/f");
        w.get("/g");
        rewrite(&host.path().join("f"), NEW);
        w.put("/f", &format!("{read}edited\n"));
        w.put("/g", "edited");
        refuses(&w, &host, &["f"], NEW, how);
    }
}

/// Others write beside the file, and rename over it (`sed -i`).
#[test]
fn a_file_that_is_renamed_over_conflicts_with_what_the_host_wrote_since() {
    for (how, rewrite) in WAYS {
        let (host, w) = lower(&["f"]);
        let read = w.get("/f");
        w.put("/f~", &format!("{read}edited\n"));
        rewrite(&host.path().join("f"), NEW);
        w.b.rename(&w.root, "/f~", "/f", RenameFlags::REPLACE)
            .unwrap();
        refuses(&w, &host, &["f"], NEW, how);
    }
}

#[test]
fn what_is_removed_after_it_was_seen_conflicts_with_what_the_host_wrote_since() {
    for (how, rewrite) in WAYS {
        let (host, w) = lower(&["looked at", "read"]);
        w.b.stat(&w.root, "/looked at").unwrap();
        w.get("/read");
        for name in ["looked at", "read"] {
            rewrite(&host.path().join(name), NEW);
        }
        for name in ["/looked at", "/read"] {
            w.b.unlink(&w.root, name).unwrap();
        }
        refuses(&w, &host, &["looked at", "read"], NEW, how);
    }
}

#[test]
fn what_was_read_again_is_what_the_edit_is_based_on() {
    for (how, rewrite) in WAYS {
        let (host, w) = lower(&["f"]);
        w.get("/f");
        rewrite(&host.path().join("f"), NEW);
        assert_eq!(w.get("/f"), NEW, "{how}");
        w.put("/f", "edited");
        w.b.apply(ApplyMode::Refuse).unwrap();
        let now = fs::read_to_string(host.path().join("f")).unwrap();
        assert_eq!(now, "edited", "{how}");
    }
}

/// Looking at a file again, as a status line does, is not reading it again.
#[test]
fn a_later_look_at_the_attributes_does_not_count_as_reading() {
    let (host, w) = lower(&["f"]);
    w.get("/f");
    in_place(&host.path().join("f"), NEW);
    w.b.stat(&w.root, "/f").unwrap();
    let handle = w.b.open(&w.root, "/f", OpenFlags::WRITE_ONLY, 0).unwrap();
    w.b.write_at(&w.root, handle, 0, b"edited").unwrap();
    refuses(&w, &host, &["f"], NEW, "in place");
}

#[test]
fn a_file_is_not_changed_in_part_through_a_handle_from_before_the_host_changed_it() {
    for (how, rewrite) in [WAYS[0], WAYS[2]] {
        let (host, w) = lower(&["f"]);
        let handle = w.open("/f");
        rewrite(&host.path().join("f"), NEW);
        let stale = Err(Errno::ESTALE);
        assert_eq!(w.b.write_at(&w.root, handle, 4, b"mine"), stale, "{how}");
        let cut = w.b.ftruncate(&w.root, handle, 10);
        assert_eq!(cut, Err(Errno::ESTALE), "{how}");
        // Nothing was taken into the branch, so a program that opens the file anew changes what is
        // there now.
        assert!(w.b.apply(ApplyMode::DryRun).unwrap().actions.is_empty());
        assert_eq!(w.get("/f"), NEW, "{how}");
        let handle = w.open("/f");
        w.b.write_at(&w.root, handle, 4, b"new").unwrap();
        assert_eq!(w.get("/f"), NEW.replace("NEW", "new"), "{how}");
        w.b.apply(ApplyMode::Refuse).unwrap();
    }
}

#[test]
fn what_is_appended_stands_after_what_the_host_has_now() {
    let (host, w) = lower(&["f"]);
    let flags = OpenFlags::READ_WRITE | OpenFlags::APPEND;
    let handle = w.b.open(&w.root, "/f", flags, 0).unwrap();
    in_place(&host.path().join("f"), SHORT);
    w.b.write(&w.root, handle, b"mine\n").unwrap();
    assert_eq!(w.get("/f"), "cut\nmine\n");
    refuses(&w, &host, &["f"], SHORT, "in place");
}

/// The size is of one version and the bytes of another, when the host cuts a file in between.
#[test]
fn a_file_that_the_host_cuts_while_it_is_read_does_not_end_in_zeros() {
    let (host, w) = lower(&[]);
    let path = host.path().join("f");
    let full = vec![b'x'; 3 * 4096];
    fs::write(&path, &full).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..2000 {
                fs::write(&path, "").unwrap();
                fs::write(&path, &full).unwrap();
            }
        });
        let mut buffer = vec![0; full.len()];
        while !writer.is_finished() {
            let handle = w.b.open(&w.root, "/f", OpenFlags::READ, 0).unwrap();
            let read = w.b.read_at(&w.root, handle, 0, &mut buffer).unwrap();
            w.b.close(&w.root, handle).unwrap();
            let zeros = buffer[..read].iter().filter(|byte| **byte == 0).count();
            assert_eq!(zeros, 0, "in {read} bytes");
        }
    });
}

#[test]
fn a_branch_that_was_applied_can_be_changed_and_applied_again() {
    let (host, w) = lower(&["f", "g", "moved", "named", "linked"]);
    fs::hard_link(host.path().join("linked"), host.path().join("second")).unwrap();
    let names = ["/f", "/g", "/moved", "/named", "/linked"];
    for name in names {
        w.get(name);
    }
    let mut at = ["/f", "/g", "/moved", "/named", "/linked"];
    w.put("/f", "first");
    w.b.chmod(&w.root, "/g", 0o600).unwrap();
    w.b.rename(&w.root, "/moved", "/to", RenameFlags::REPLACE)
        .unwrap();
    w.b.link(&w.root, "/named", "/another").unwrap();
    w.b.unlink(&w.root, "/second").unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    at[2] = "/to";
    // Nothing was read again: what the branch applied is what it has shown.
    for name in at {
        w.put(name, "second");
    }
    w.b.apply(ApplyMode::Refuse).unwrap();
    for name in at {
        let now = fs::read_to_string(host.path().join(&name[1..])).unwrap();
        assert_eq!(now, "second", "{name}");
    }
    // The host's later content is newer than what the branch has shown.
    in_place(&host.path().join("f"), NEW);
    w.put("/f", "third");
    refuses(&w, &host, &["f"], NEW, "after applying");
}

#[test]
fn the_base_of_a_change_is_what_was_shown_before_it() {
    let (host, w) = lower(&["f", "gone", "new", "untouched"]);
    fs::create_dir(host.path().join("dir")).unwrap();
    symlink("f", host.path().join("dir/link")).unwrap();
    let time = |name: &str| {
        let found = fs::symlink_metadata(host.path().join(name)).unwrap();
        let since = found.modified().unwrap();
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        (found.len(), i64::try_from(since.as_nanos()).unwrap())
    };
    let seen = [time("f"), time("gone"), time("dir/link")];
    w.get("/f");
    w.get("/untouched");
    w.b.lstat(&w.root, "/gone").unwrap();
    w.b.lstat(&w.root, "/dir/link").unwrap();
    for name in ["f", "gone"] {
        by_rename(&host.path().join(name), "of another length");
    }
    w.put("/f", "mine");
    w.b.unlink(&w.root, "/gone").unwrap();
    w.b.unlink(&w.root, "/dir/link").unwrap();
    w.put("/made", "mine");
    let base = |name: &str| {
        let base = w.b.base_of(name)?;
        Some((base.version.size, base.version.mtime))
    };
    let bases = ["f", "/gone", "dir/link"].map(|name| base(name).unwrap());
    assert_eq!(bases, seen);
    assert_eq!(base("/made"), None);
    assert_eq!(base("/untouched"), None);
    assert_eq!(w.b.base_of("/dir").unwrap().version.size, 0);
}

/// Filesystems give the number of a file that is gone to the next one that is made.
#[test]
fn a_new_file_with_the_number_of_a_removed_one_is_another_file() {
    for is_looked_up in [true, false] {
        let (host, w) = lower(&["f"]);
        w.put("/f", "mine");
        let number = |name: &str| {
            use std::os::unix::fs::MetadataExt as _;
            fs::metadata(host.path().join(name)).unwrap().ino()
        };
        let old = number("f");
        fs::remove_file(host.path().join("f")).unwrap();
        fs::write(host.path().join("new"), NEW).unwrap();
        if number("new") != old {
            // This filesystem does not give the number again.
            return;
        }
        if is_looked_up {
            w.b.stat(&w.root, "/new").unwrap();
        } else {
            let all = w.b.list(&w.root, "/").unwrap();
            let node = |name: &str| all.iter().find(|it| &*it.name == name.as_bytes()).unwrap();
            assert_ne!(node("new").node, node("f").node);
        }
        assert_eq!(w.get("/new"), NEW);
        assert_eq!(w.get("/f"), "mine");
        w.put("/new", "mine, too");
        assert_eq!(w.get("/f"), "mine");
        // The host removed what the branch changed.
        let conflicts = ApplyError::Conflicts(vec!["f".into()]);
        assert_eq!(w.b.apply(ApplyMode::Refuse), Err(conflicts));
        assert_eq!(fs::read_to_string(host.path().join("new")).unwrap(), NEW);
    }
}
