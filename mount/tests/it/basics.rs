//! Tests files, directories and their metadata.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use agentfs_core::{Caller, FsConfig, Overlay};

use crate::support::Fixture;

#[test]
fn what_a_program_writes_is_in_the_branch() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let mount = fixture.mount();
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/f"), "hello").unwrap();
    let branch = fixture.main();
    let attr = branch.stat(&Caller::root(), "/d/f").unwrap();
    assert_eq!(attr.size, 5);
    let seen = fs::metadata(mount.path("d/f")).unwrap();
    assert_eq!(seen.ino(), attr.node.0);
    assert_eq!(seen.dev(), mount.handle.info().device);
    assert_eq!(fs::read(mount.path("d/f")).unwrap(), b"hello");
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let mount = fixture.mount();
    let mut file = fs::File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(mount.path("f"))
        .unwrap();
    fs::remove_file(mount.path("f")).unwrap();
    file.write_all(b"still here").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
}

#[test]
fn names_modes_and_links_are_as_on_a_disk() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let mount = fixture.mount();
    fs::write(mount.path("a"), "1").unwrap();
    fs::hard_link(mount.path("a"), mount.path("b")).unwrap();
    symlink("a", mount.path("c")).unwrap();
    fs::set_permissions(mount.path("b"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(
        fs::metadata(mount.path("a")).unwrap().mode() & 0o7777,
        0o600
    );
    assert_eq!(fs::metadata(mount.path("a")).unwrap().nlink(), 2);
    assert_eq!(fs::read_to_string(mount.path("c")).unwrap(), "1");
    fs::rename(mount.path("a"), mount.path("z")).unwrap();
    fs::read(mount.path("c")).unwrap_err();
    let mut names: Vec<_> = fs::read_dir(mount.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["b", "c", "z"]);
}

#[test]
fn ten_thousand_entries_are_listed_once_each() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let mount = fixture.mount();
    let mut expected: Vec<String> = (0..10_000).map(|n| format!("entry-{n}")).collect();
    for name in &expected {
        fs::write(mount.path(name), "").unwrap();
    }
    let list = || {
        let mut names: Vec<String> = fs::read_dir(mount.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    expected.sort();
    assert_eq!(list(), expected);
    // This answer comes from the kernel's cache.
    assert_eq!(list(), expected);
}

#[test]
fn a_merged_directory_is_listed_once_each_by_readers_at_once() {
    let lower = tempfile::tempdir().unwrap();
    for number in 0..3000 {
        fs::write(lower.path().join(format!("lower-{number}")), "").unwrap();
    }
    let Some(fixture) = Fixture::new(FsConfig {
        overlay: Some(Overlay {
            lower: lower.path().to_owned(),
        }),
        ..FsConfig::default()
    }) else {
        return;
    };
    let mount = fixture.mount();
    for number in 0..3000 {
        fs::write(mount.path(&format!("upper-{number}")), "").unwrap();
    }
    fs::remove_file(mount.path("lower-7")).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let mut names: Vec<_> = fs::read_dir(mount.dir.path())
                        .unwrap()
                        .map(|entry| entry.unwrap().file_name())
                        .collect();
                    assert_eq!(names.len(), 5999);
                    names.sort();
                    names.dedup();
                    assert_eq!(names.len(), 5999, "a name was listed twice");
                }
            });
        }
    });
}

#[test]
fn a_directory_removed_elsewhere_lists_nothing_to_who_has_it_open() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let mount = fixture.mount();
    fs::create_dir(mount.path("d")).unwrap();
    let mut open = fs::read_dir(mount.path("d")).unwrap();
    fixture.main().rmdir(&Caller::root(), "/d").unwrap();
    assert!(open.next().is_none_or(|entry| entry.is_err()));
    let gone = fs::read_dir(mount.path("d")).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
}
