//! Tests what happens to directories that both the branch and the host have: what others put into
//! them stays.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use agentfs_core::{Action, ApplyError, ApplyMode, Branch, RenameFlags, XattrFlags};

use crate::support::{World, get, names, put};

fn branches(host: &Path) -> (World, Branch) {
    let w = World::over(host);
    let id = w.fs.branch_create_from_current(&w.root, w.b.id(), "other");
    let other = w.fs.branch(id.unwrap()).unwrap();
    (w, other)
}

fn files(host: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = vec![host.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(host).unwrap().display().to_string();
            if path.is_dir() {
                open.push(path);
            } else {
                all.push(format!("{name}={}", fs::read_to_string(&path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_directory_that_two_branches_made_has_the_files_of_both() {
    for mode in [ApplyMode::Refuse, ApplyMode::Force] {
        let host = tempfile::tempdir().unwrap();
        let (w, other) = branches(host.path());
        for (branch, name) in [(&w.b, "one"), (&other, "two")] {
            branch.mkdir(&w.root, "/lib", 0o755).unwrap();
            branch.mkdir(&w.root, "/lib/sub", 0o755).unwrap();
            put(branch, &format!("/lib/{name}"), name);
            put(branch, &format!("/lib/sub/{name}"), name);
        }
        let open = other
            .open(&w.root, "/lib/two", agentfs_core::OpenFlags::READ, 0)
            .unwrap();
        w.b.apply(mode).unwrap();
        let applied = other.apply(mode).unwrap();
        assert!(applied.conflicts.is_empty(), "{applied:?}");
        assert_eq!(
            applied.actions,
            [
                Action::Write("lib/sub/two".into()),
                Action::Write("lib/two".into())
            ]
        );
        assert_eq!(
            files(host.path()),
            [
                "lib/one=one",
                "lib/sub/one=one",
                "lib/sub/two=two",
                "lib/two=two"
            ]
        );
        for branch in [&w.b, &other] {
            assert_eq!(names(branch, "/lib"), ["one", "sub", "two"]);
            assert_eq!(names(branch, "/lib/sub"), ["one", "two"]);
            assert_eq!(get(branch, "/lib/sub/two"), "two");
            assert!(branch.apply(ApplyMode::DryRun).unwrap().actions.is_empty());
        }
        assert_eq!(other.fstat(open).unwrap().size, 3);
        assert_eq!(other.close(&w.root, open), Ok(()));
    }
}

#[test]
fn in_a_merged_directory_files_of_one_name_are_conflicts() {
    let host = tempfile::tempdir().unwrap();
    let (w, other) = branches(host.path());
    for (branch, text) in [(&w.b, "one"), (&other, "two")] {
        branch.mkdir(&w.root, "/lib", 0o755).unwrap();
        put(branch, "/lib/both", text);
        put(branch, "/lib/same", "same");
    }
    w.b.apply(ApplyMode::Refuse).unwrap();
    let refused = other.apply(ApplyMode::Refuse);
    assert_eq!(refused, Err(ApplyError::Conflicts(vec!["lib/both".into()])));
    other.apply(ApplyMode::Force).unwrap();
    assert_eq!(files(host.path()), ["lib/both=two", "lib/same=same"]);
}

#[test]
fn a_directory_made_anew_loses_only_what_the_branch_took_away() {
    let host = tempfile::tempdir().unwrap();
    fs::create_dir_all(host.path().join("lib/sub")).unwrap();
    fs::write(host.path().join("lib/old"), "old").unwrap();
    fs::write(host.path().join("lib/sub/old"), "old").unwrap();
    let (w, other) = branches(host.path());
    for path in ["/lib/sub/old", "/lib/old"] {
        w.b.unlink(&w.root, path).unwrap();
    }
    w.b.rmdir(&w.root, "/lib/sub").unwrap();
    w.b.rmdir(&w.root, "/lib").unwrap();
    w.mkdir("/lib");
    w.put("/lib/mine", "mine");
    put(&other, "/lib/theirs", "theirs");
    other.apply(ApplyMode::Refuse).unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    assert_eq!(files(host.path()), ["lib/mine=mine", "lib/theirs=theirs"]);
    assert!(!host.path().join("lib/sub").exists());
}

#[test]
fn what_others_put_into_a_removed_directory_stays_also_when_it_is_forced() {
    let host = tempfile::tempdir().unwrap();
    fs::create_dir_all(host.path().join("dir/sub")).unwrap();
    fs::write(host.path().join("dir/old"), "old").unwrap();
    let (w, other) = branches(host.path());
    w.b.unlink(&w.root, "/dir/old").unwrap();
    w.b.rmdir(&w.root, "/dir/sub").unwrap();
    w.b.rmdir(&w.root, "/dir").unwrap();
    put(&other, "/dir/sub/theirs", "theirs");
    other.apply(ApplyMode::Refuse).unwrap();
    fs::create_dir(host.path().join("dir/empty")).unwrap();
    let kept = ["dir", "dir/empty", "dir/sub", "dir/sub/theirs"].map(PathBuf::from);
    let refused = w.b.apply(ApplyMode::Refuse).unwrap_err();
    assert_eq!(refused, ApplyError::Conflicts(kept.to_vec()));
    assert_eq!(w.b.apply(ApplyMode::Force).unwrap().kept, kept);
    assert_eq!(files(host.path()), ["dir/sub/theirs=theirs"]);
    assert!(host.path().join("dir/empty").is_dir());
    // The branch sees the directory again.
    assert_eq!(w.names("/dir"), ["empty", "sub"]);
}

#[test]
fn a_file_in_the_place_of_a_directory_with_files_of_others_is_refused_also_when_forced() {
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("was")).unwrap();
    fs::create_dir(host.path().join("moving")).unwrap();
    let (w, other) = branches(host.path());
    w.put("/new", "a file");
    w.b.rmdir(&w.root, "/was").unwrap();
    w.put("/was", "a file");
    w.b.rename(&w.root, "/moving", "/moved", RenameFlags::REPLACE)
        .unwrap();
    for dir in ["/new", "/moved"] {
        other.mkdir(&w.root, dir, 0o755).unwrap();
    }
    for path in ["/new/theirs", "/was/theirs", "/moved/theirs"] {
        put(&other, path, "theirs");
    }
    other.apply(ApplyMode::Refuse).unwrap();
    let before = files(host.path());
    let refused = w.b.apply(ApplyMode::Force).unwrap_err();
    let in_the_way = ["moved", "new", "was"].map(PathBuf::from);
    assert_eq!(refused, ApplyError::InTheWay(in_the_way.to_vec()));
    assert!(refused.to_string().contains("moved"), "{refused}");
    assert_eq!(files(host.path()), before);
    assert_eq!(w.get("/new"), "a file");
    // An empty directory is in nobody's way.
    for dir in ["new", "was", "moved"] {
        fs::remove_file(host.path().join(dir).join("theirs")).unwrap();
    }
    w.b.apply(ApplyMode::Force).unwrap();
    assert_eq!(files(host.path()), ["new=a file", "was=a file"]);
    assert!(host.path().join("moved").is_dir());
}

#[test]
fn a_directory_that_the_host_moved_and_the_branch_changed_is_refused_also_when_forced() {
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("dir")).unwrap();
    fs::write(host.path().join("dir/f"), "f").unwrap();
    let w = World::over(host.path());
    w.put("/dir/mine", "mine");
    fs::rename(host.path().join("dir"), host.path().join("moved")).unwrap();
    // The path was looked up, so the branch knows where the directory is now.
    assert!(w.names("/").contains(&"moved".to_owned()));
    let before = files(host.path());
    let refused = w.b.apply(ApplyMode::Refuse);
    assert!(
        matches!(refused, Err(ApplyError::Conflicts(_))),
        "{refused:?}"
    );
    let refused = w.b.apply(ApplyMode::Force);
    assert_eq!(refused, Err(ApplyError::InTheWay(vec!["dir".into()])));
    assert_eq!(files(host.path()), before);
    fs::rename(host.path().join("moved"), host.path().join("dir")).unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    assert_eq!(files(host.path()), ["dir/f=f", "dir/mine=mine"]);
}

#[test]
fn a_directory_in_the_place_of_a_file_of_others_is_a_conflict_that_can_be_forced() {
    let host = tempfile::tempdir().unwrap();
    let w = World::over(host.path());
    w.mkdir("/lib");
    w.put("/lib/mine", "mine");
    fs::write(host.path().join("lib"), "theirs").unwrap();
    let refused = w.b.apply(ApplyMode::Refuse);
    assert_eq!(refused, Err(ApplyError::Conflicts(vec!["lib".into()])));
    w.b.apply(ApplyMode::Force).unwrap();
    assert_eq!(files(host.path()), ["lib/mine=mine"]);
}

/// The attributes of a directory belong to whoever changed them; the branch may have the directory
/// only because it put something into it.
#[test]
fn the_attributes_of_a_directory_are_those_of_who_changed_them() {
    let host = tempfile::tempdir().unwrap();
    let dir = host.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let w = World::over(host.path());
    w.put("/dir/mine", "mine");
    let mode = || fs::metadata(&dir).unwrap().permissions().mode() & 0o7777;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o711)).unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    assert_eq!(mode(), 0o700);
    let root = fs::metadata(host.path()).unwrap().permissions().mode();
    assert_eq!(root & 0o7777, 0o711);
    w.b.chmod(&w.root, "/dir", 0o750).unwrap();
    w.b.setxattr(&w.root, "/dir", true, b"user.mine", b"1", XattrFlags::ANY)
        .unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    assert_eq!(mode(), 0o750);
    w.b.chmod(&w.root, "/dir", 0o755).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o705)).unwrap();
    let refused = w.b.apply(ApplyMode::Refuse);
    assert_eq!(refused, Err(ApplyError::Conflicts(vec!["dir".into()])));
    assert_eq!(mode(), 0o705);
}

/// The host wrote the same bytes meanwhile: the branch's other changes to the file still arrive.
#[test]
fn a_file_that_the_host_has_with_the_same_bytes_gets_the_attributes_of_the_branch() {
    let host = tempfile::tempdir().unwrap();
    let path = |name: &str| host.path().join(name);
    let write = |name: &str, text: &str, mode| {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["changed", "only-bytes", "both"] {
        write(name, "before", 0o644);
    }
    let w = World::over(host.path());
    for (name, mode) in [("made", 0o755), ("changed", 0o700), ("both", 0o755)] {
        w.put(&format!("/{name}"), "same");
        w.b.chmod(&w.root, format!("/{name}"), mode).unwrap();
    }
    w.put("/only-bytes", "same");
    w.b.setxattr(&w.root, "/made", true, b"user.mine", b"1", XattrFlags::ANY)
        .unwrap();
    write("made", "same", 0o644);
    write("changed", "same", 0o644);
    write("only-bytes", "same", 0o600);
    write("both", "same", 0o600);
    let refused = w.b.apply(ApplyMode::Refuse);
    assert_eq!(refused, Err(ApplyError::Conflicts(vec!["both".into()])));
    write("both", "same", 0o644);
    let ino = |name: &str| fs::metadata(path(name)).unwrap().ino();
    let before = ["made", "changed", "both"].map(ino);
    let applied = w.b.apply(ApplyMode::Refuse).unwrap();
    let mut actions = applied.actions;
    actions.sort_by_key(|action| action.path().to_owned());
    let names = ["both", "changed", "made"];
    assert_eq!(
        actions,
        names.map(|name| Action::SetAttributes(name.into()))
    );
    let mode = |name: &str| fs::metadata(path(name)).unwrap().permissions().mode() & 0o7777;
    let modes = ["made", "changed", "only-bytes", "both"].map(mode);
    assert_eq!(modes, [0o755, 0o700, 0o600, 0o755]);
    assert_eq!(["made", "changed", "both"].map(ino), before);
    let mut value = [0; 8];
    let len = rustix::fs::getxattr(path("made"), "user.mine", &mut value).unwrap();
    assert_eq!(value[..len], *b"1");
    assert!(w.b.apply(ApplyMode::DryRun).unwrap().actions.is_empty());
    // The branch has shown what is there now.
    for name in names {
        assert_eq!(w.get(&format!("/{name}")), "same");
        w.b.chmod(&w.root, format!("/{name}"), 0o711).unwrap();
    }
    w.b.apply(ApplyMode::Refuse).unwrap();
    assert_eq!(["made", "changed", "both"].map(mode), [0o711; 3]);
}

#[test]
fn a_new_directory_gets_its_mode_whatever_the_umask_takes() {
    let host = tempfile::tempdir().unwrap();
    let w = World::over(host.path());
    for (path, mode) in [("/open", 0o777), ("/shared", 0o2775)] {
        w.mkdir(path);
        w.b.chmod(&w.root, path, mode).unwrap();
    }
    w.b.apply(ApplyMode::Refuse).unwrap();
    let mode = |name: &str| {
        let found = fs::metadata(host.path().join(name)).unwrap();
        found.permissions().mode() & 0o7777
    };
    assert_eq!((mode("open"), mode("shared")), (0o777, 0o2775));
}
