//! Files, directories and their metadata.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use agentfs_core::Caller;

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
    // From the kernel's cache.
    assert_eq!(list(), expected);
}
